//! powercut
