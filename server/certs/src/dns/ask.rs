//! One question to one name server.
//!
//! Not through a resolver: what it hides (the response code, who is authoritative, which server said what, the TTL as
//! it was sent) is what is wanted here.

use std::{net::SocketAddr, time::Duration};

use futures_util::StreamExt as _;
use hickory_net::{
    NetError, runtime::TokioRuntimeProvider, udp::UdpClientStream, xfer::DnsRequestSender as _,
};
use hickory_proto::{
    op::{DnsRequest, DnsRequestOptions, Message, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// What a name server said.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Its response code.
    pub(crate) code: ResponseCode,
    /// Records that answer the question.
    pub(crate) answers: Vec<Record>,
    /// Records about who is responsible.
    pub(crate) authorities: Vec<Record>,
}

impl Answer {
    /// Whether it says what there is, or that there is nothing: not that it cannot or will not say.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self.code, ResponseCode::NoError | ResponseCode::NXDomain)
    }

    /// Values of the answers of this type.
    pub(crate) fn values<'a, T: 'a>(
        &'a self,
        pick: impl Fn(&'a RData) -> Option<T> + 'a,
    ) -> impl Iterator<Item = T> + 'a {
        self.answers.iter().filter_map(move |r| pick(&r.data))
    }

    /// Texts among the answers, each joined from its parts.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.values(|data| match data {
            RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
            _ => None,
        })
        .collect()
    }
}

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// Nothing came in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// It could not or would not say, by its response code.
    #[error("the answer is {0}")]
    Failed(String),
    /// It could not be asked, or spoke nonsense.
    #[error("{0}")]
    Broken(String),
}

impl NoAnswer {
    fn broken(error: impl std::fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Asks `server` for records of `name`, over UDP, and over TCP where the answer does not fit.
pub(crate) async fn ask(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    recursive: bool,
    limit: Duration,
) -> Result<Answer, NoAnswer> {
    let mut options = DnsRequestOptions::default();
    options.use_edns = true;
    options.recursion_desired = recursive;
    let request = DnsRequest::from_query(Query::query(name.clone(), kind), options);
    let message = tokio::time::timeout(limit, async {
        let datagram = by_datagram(server, request.clone(), limit).await?;
        if !datagram.truncation {
            return Ok(datagram);
        }
        let sent = request.into_parts().0.to_vec().map_err(NoAnswer::broken)?;
        let received = by_stream(server, &sent).await?;
        Message::from_vec(&received).map_err(NoAnswer::broken)
    })
    .await
    .map_err(|_| NoAnswer::Silent(limit))??;
    Ok(Answer { code: message.response_code, answers: message.answers, authorities: message.authorities })
}

async fn by_datagram(server: SocketAddr, request: DnsRequest, limit: Duration) -> Result<Message, NoAnswer> {
    let mut sender =
        UdpClientStream::builder(server, TokioRuntimeProvider::new()).with_timeout(Some(limit)).build();
    match sender.send_message(request).next().await {
        Some(Ok(response)) => Ok(response.into_message()),
        Some(Err(NetError::Timeout)) | None => Err(NoAnswer::Silent(limit)),
        Some(Err(error)) => Err(NoAnswer::broken(error)),
    }
}

/// Sends a message over TCP (RFC 1035, 4.2.2) and returns the bytes that come back, with the same id.
pub(crate) async fn by_stream(server: SocketAddr, message: &[u8]) -> Result<Vec<u8>, NoAnswer> {
    let mut stream = TcpStream::connect(server).await.map_err(NoAnswer::broken)?;
    let _ = stream.set_nodelay(true);
    let length =
        u16::try_from(message.len()).map_err(|_| NoAnswer::Broken("the message is too long".into()))?;
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await.map_err(NoAnswer::broken)?;
    let length = stream.read_u16().await.map_err(NoAnswer::broken)?;
    let mut received = vec![0; usize::from(length)];
    stream.read_exact(&mut received).await.map_err(NoAnswer::broken)?;
    if received.get(..2) != message.get(..2) {
        return Err(NoAnswer::Broken("the answer belongs to another question".into()));
    }
    Ok(received)
}

/// A name as it goes over the wire, in full.
pub(crate) fn full_name(name: &str) -> Result<Name, NoAnswer> {
    let mut name = Name::from_ascii(name).map_err(NoAnswer::broken)?;
    name.set_fqdn(true);
    Ok(name)
}
