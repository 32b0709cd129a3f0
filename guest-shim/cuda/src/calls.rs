//! Typed senders of what crosses a lane, derived from the description.
#![allow(dead_code, unused_parens, unused_variables, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/calls.rs"));
