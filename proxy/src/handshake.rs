//! TLS handshakes: a client is heard before it is answered, so that a certificate may be got on demand, and so that a
//! name without one is refused in the words that are meant for it (RFC 6066) instead of with another app's certificate.

use std::{io, sync::Arc};

use rustls::{
    ServerConfig,
    server::Acceptor,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use crate::{
    connections::{ConnectionState, Phase},
    handle::Shared,
    tls::{self, Wanted},
};

/// A fatal alert, `unrecognized_name`, in a record of its own; in the clear, as no keys were agreed yet.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Makes TLS of sockets.
#[derive(Debug)]
pub(crate) struct Handshakes {
    shared: Arc<Shared>,
    config: Arc<ServerConfig>,
}

impl Handshakes {
    pub(crate) fn new(shared: Arc<Shared>) -> Result<Self, rustls::Error> {
        let config = Arc::new(tls::server_config(Arc::clone(&shared.certificates))?);
        Ok(Self { shared, config })
    }

    /// Shakes hands with a client.
    ///
    /// # Errors
    /// When the client leaves, speaks no TLS of ours, or wants a name that has no certificate.
    pub(crate) async fn accept(
        &self,
        socket: TcpStream,
        state: &ConnectionState,
    ) -> io::Result<TlsStream<TcpStream>> {
        let heard = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let (wanted, shown) = self.shared.certificates.wanted(&heard.client_hello());
        let had = match &wanted {
            Wanted::Name(name) => {
                // Has a limit of its own, which is longer than that of a handshake.
                state.enter(Phase::Certificate);
                let had = self.shared.on_demand.certificate(name, state.peer.ip()).await;
                state.enter(Phase::Handshake);
                had
            }
            Wanted::Known | Wanted::Nothing => None,
        };
        let config = match had {
            Some(key) => self.with(&key),
            None if shown => Arc::clone(&self.config),
            None => return refuse(heard.io).await,
        };
        heard.into_stream(config).await
    }

    /// As for all, but with this certificate, which the table may not have yet.
    fn with(&self, key: &CertifiedKey) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.config);
        config.cert_resolver = Arc::new(SingleCertAndKey::from(key.clone()));
        Arc::new(config)
    }
}

async fn refuse<T>(mut socket: TcpStream) -> io::Result<T> {
    socket.write_all(&UNRECOGNIZED_NAME).await?;
    socket.shutdown().await?;
    Err(io::Error::new(io::ErrorKind::NotFound, "there is no certificate for the name that was asked for"))
}
