//! Replacing the daemon by a new process without closing a listening socket.
//!
//! The old process starts the new one with a socket as its standard input and hands the listening sockets over at
//! once; nothing accepts on them twice, because the new one does not yet. Then, line by line:
//!
//! 1. `hello`: the old one says what it hands over. The new one reads its configuration and looks at the database
//!    without touching it, and says `prepared`, or `refused` with a problem. Until here nothing has changed.
//! 2. The old one ends its control plane and the pipeline, closes the store and says `yours`. Its data plane goes on
//!    serving visitors by the routes that it has; connections to the control plane wait in the backlog.
//! 3. The new one opens the store (bringing the schema forward), finds its routes, accepts on all sockets and says
//!    `serving`. From here on there is no way back.
//! 4. The old one stops accepting, lets open requests finish within the shutdown's limit, sends the records of
//!    those, and ends. The end of the connection tells the new one that it is alone; before, it stops no container.
//!
//! If the new one fails or is silent in step 3, the old one kills it, puts the database back where it was, and starts
//! its control plane again.

mod giving;
mod taking;
mod wire;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use giving::{Given, Offer, Program};
pub use taking::{Predecessor, Taken};

/// Version of what is said; another one is refused in step 1.
const PROTOCOL: u32 = 1;

/// Set in the environment of a process that is to take over; its standard input is the socket.
pub const VARIABLE: &str = "BERTH_TAKES_OVER";

/// What a listening socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Visitors over HTTP.
    Http,
    /// Visitors over HTTPS.
    Https,
    /// The control plane.
    Control,
}

/// A listening socket that is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// What it is for.
    pub role: Role,
    /// The address as it was configured: who wants another one now binds its own.
    pub configured: SocketAddr,
}
