//! Tells the service manager that the daemon is ready, stopping or another process by now, as `sd_notify(3)`
//! describes: one datagram to the socket named by `NOTIFY_SOCKET`. Nothing happens where there is none.

use std::{
    net::TcpListener,
    os::{
        fd::AsFd as _,
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

use crate::descriptors;

/// Sends one state, such as `READY=1`.
pub fn tell(state: &str) {
    send(state, &[]);
}

/// Has the service manager keep listening sockets open across a restart or a crash of this process; it hands them to
/// the next one (`FileDescriptorStoreMax=` in the unit).
pub fn keep(listeners: &[&TcpListener]) {
    send("FDSTORE=1\nFDNAME=listener", listeners);
}

fn send(state: &str, listeners: &[&TcpListener]) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let send = || -> std::io::Result<()> {
        let address = match path.as_encoded_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        let handles: Vec<_> = listeners.iter().map(|l| l.as_fd()).collect();
        descriptors::send(&socket, state.as_bytes(), &handles)
    };
    if let Err(error) = send() {
        tracing::warn!(%error, "the service manager could not be told {state:?}");
    }
}
