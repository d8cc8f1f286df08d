//! The one command a person types.
fn main() {}
