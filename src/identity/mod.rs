//! Who is at the other end of a connection. So far: which process; proofs of a principal come later.

pub mod peer;
mod sock_diag;
