//! x
#[allow(dead_code)]
mod wire;
fn main() {}
