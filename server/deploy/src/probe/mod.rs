//! Health: whether a release's replica answers, and if not, why. Made by the daemon itself over the private
//! network, so that nothing is needed inside the image.

mod listening;

pub use listening::{Listening, listening_ports};
