//! The listening sockets of the daemon: bound once, kept for its life, and handed on to the process after it.
//!
//! They come from the process before (`berth upgrade`), from the service manager that kept them across a restart
//! (`LISTEN_FDS`), or are bound here. Each use gets a duplicate, so that stopping one does not close the socket.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use crate::{
    cli::failure::Failure,
    config::Config,
    takeover::{Described, Role, Taken},
};

/// A listening socket and what it is for.
#[derive(Debug)]
struct Kept {
    described: Described,
    listener: TcpListener,
}

/// All listening sockets.
#[derive(Debug)]
pub struct Sockets {
    kept: Vec<Kept>,
}

impl Sockets {
    /// The sockets that the configuration wants: taken over where they are the same, else bound.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub fn open(config: &Config, taken: Taken) -> Result<Self, Failure> {
        let mut taken = taken.0;
        let mut manager = from_manager();
        let wanted = [
            (Role::Control, Some(config.control_addr), "control_addr"),
            (Role::Http, Some(config.http_addr), "http_addr"),
            (Role::Https, config.https, "https_addr"),
        ];
        let mut kept = Vec::new();
        for (role, configured, setting) in wanted {
            let Some(configured) = configured else { continue };
            let described = Described { role, configured };
            let same = taken.iter().position(|(d, _)| *d == described);
            // The manager does not tell what a socket is for; its address does.
            let managed = manager.iter().position(|l| l.local_addr().is_ok_and(|a| a == configured));
            let listener = match (same, managed) {
                (Some(at), _) => taken.swap_remove(at).1,
                (None, Some(at)) => manager.swap_remove(at),
                (None, None) => {
                    berth_proxy::bind(configured).map_err(|e| cannot_listen(setting, configured, &e))?
                }
            };
            listener.set_nonblocking(true).map_err(|e| cannot_listen(setting, configured, &e))?;
            kept.push(Kept { described, listener });
        }
        Ok(Self { kept })
    }

    /// A duplicate of the socket of a role, to accept on; none where there is no such socket.
    ///
    /// # Errors
    /// When there are no more file descriptors.
    pub fn duplicate(&self, role: Role) -> io::Result<Option<TcpListener>> {
        self.of(role).map(|kept| kept.listener.try_clone()).transpose()
    }

    /// The address that a role listens on.
    #[must_use]
    pub fn addr(&self, role: Role) -> Option<SocketAddr> {
        self.of(role)?.listener.local_addr().ok()
    }

    /// All of them with their descriptions, in the same order.
    #[must_use]
    pub fn handles(&self) -> (Vec<Described>, Vec<&TcpListener>) {
        self.kept.iter().map(|kept| (kept.described, &kept.listener)).unzip()
    }

    fn of(&self, role: Role) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.described.role == role)
    }
}

/// Sockets that the service manager kept open across a restart, as `sd_listen_fds(3)` describes.
fn from_manager() -> Vec<TcpListener> {
    let mut manager = listenfd::ListenFd::from_env();
    (0..manager.len()).filter_map(|at| manager.take_tcp_listener(at).ok().flatten()).collect()
}

fn cannot_listen(setting: &str, addr: SocketAddr, error: &io::Error) -> Failure {
    Failure::local(format!("cannot listen on {addr} ({setting}): {error}")).hint(format!(
        "Is something else listening there? Choose another address with --{}.",
        setting.replace('_', "-")
    ))
}
