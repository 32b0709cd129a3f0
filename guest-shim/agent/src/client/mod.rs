//! Shims and what they hold.

pub mod packet;
pub mod peer;
pub mod session;
pub mod windows;

#[cfg(test)]
mod tests;
