//! The command line from outside: what it says when something is wrong, what it leaves behind, and `run`.

mod doctor;
mod gc;
mod journal;
mod refusals;
mod replay;
mod run;
mod space;
mod startup;
mod timeline;
