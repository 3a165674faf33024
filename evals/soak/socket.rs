//! The WebSocket guest: talks until it is told to go, and wants to be told properly.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        handshake::client::generate_key,
        http::Request,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::{
    guests::{Ended, Outcome, Sizes, Switched, at_deadline},
    load::Visit,
    tally::{Failure, Kind},
    wire,
};

/// Time in which what was said comes back.
const ECHO: Duration = Duration::from_secs(10);

/// Holds a WebSocket until it is closed: with 1001 or 1012 when the drain ends, after which the new release answers.
pub(crate) async fn hold(
    visit: &Visit,
    sizes: Sizes,
    tls: bool,
    deployment: usize,
    switched: &Switched,
) -> Outcome {
    let began = Instant::now();
    let limit = Duration::from_secs(sizes.drain_s + 90);
    let talk = async {
        let (old, said, close) = talk_until_closed(visit, tls).await?;
        match close.as_ref().map(|frame| frame.code) {
            Some(CloseCode::Away | CloseCode::Restart) => {}
            code => return Err(Failure::new(Kind::Protocol, format!("closed with {code:?}"))),
        }
        let after = at_deadline(switched, sizes)?;
        let new = first_words(visit, tls).await?;
        sizes.check_release(&old, &new)?;
        let code = close.map(|frame| u16::from(frame.code)).unwrap_or_default();
        Ok(format!("closed with {code} {after:.1} s after the switch, {said} words came back, reconnected"))
    };
    let result = tokio::time::timeout(limit, talk).await;
    let result =
        result.unwrap_or_else(|_| Err(Failure::new(Kind::Timeout, format!("not over after {limit:?}"))));
    let name = if tls { "WebSocket, TLS" } else { "WebSocket" };
    Ended::now(began, result).outcome(name, deployment, switched)
}

async fn talk_until_closed(visit: &Visit, tls: bool) -> Result<(String, u32, Option<CloseFrame>), Failure> {
    if tls {
        talk(open(visit, visit.door.tls(b"http/1.1").await?).await?).await
    } else {
        talk(open(visit, visit.door.tcp().await?).await?).await
    }
}

/// Who answers now.
async fn first_words(visit: &Visit, tls: bool) -> Result<String, Failure> {
    if tls {
        release(&mut open(visit, visit.door.tls(b"http/1.1").await?).await?).await
    } else {
        release(&mut open(visit, visit.door.tcp().await?).await?).await
    }
}

async fn open<S>(visit: &Visit, stream: S) -> Result<WebSocketStream<S>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = Request::builder()
        .uri(format!("ws://{}/socket", visit.door.host))
        .header("host", &visit.door.host)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", generate_key())
        .header(wire::ID, "socket")
        .body(())
        .map_err(|e| Failure::new(Kind::Protocol, e.to_string()))?;
    let (socket, _) = client_async(request, stream).await.map_err(failure)?;
    Ok(socket)
}

/// The first tick says which release it is.
async fn release<S>(socket: &mut WebSocketStream<S>) -> Result<String, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match tokio::time::timeout(ECHO, socket.next()).await {
        Ok(Some(Ok(Message::Text(text)))) => Ok(text.to_string()),
        Ok(Some(Err(error))) => Err(failure(error)),
        Ok(other) => Err(Failure::new(Kind::Protocol, format!("the first message is {other:?}"))),
        Err(_) => Err(Failure::new(Kind::Timeout, "no first message")),
    }
}

/// Says something after each tick and wants it back, until the close frame.
async fn talk<S>(mut socket: WebSocketStream<S>) -> Result<(String, u32, Option<CloseFrame>), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let own = release(&mut socket).await?;
    let (mut said, mut back) = (0_u32, 0_u32);
    loop {
        let next = tokio::time::timeout(ECHO, socket.next()).await;
        match next.map_err(|_| Failure::new(Kind::Timeout, format!("silent for {ECHO:?}")))? {
            Some(Ok(Message::Text(text))) if text.as_str() == own => {
                said += 1;
                let word = Message::text(format!("word {said}"));
                match socket.send(word).await {
                    // It is being closed; the frame that says so is still to be read.
                    Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {}
                    Err(error) => return Err(failure(error)),
                }
            }
            Some(Ok(Message::Text(text))) if text.as_str() == format!("word {}", back + 1) => back += 1,
            Some(Ok(Message::Close(frame))) => {
                // Reading on sends the answer to the close frame and waits for the end of the connection.
                while let Ok(Some(Ok(_))) = tokio::time::timeout(ECHO, socket.next()).await {}
                return Ok((own, back, frame));
            }
            Some(Ok(other)) => {
                return Err(Failure::new(Kind::Changed, format!("after {back} words: {other:?}")));
            }
            Some(Err(error)) => return Err(failure(error)),
            None => return Err(Failure::new(Kind::ClosedEarly, "without a close frame")),
        }
    }
}

fn failure(error: Error) -> Failure {
    let kind = match &error {
        Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Kind::Reset,
        Error::Io(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Kind::Reset,
        Error::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Kind::ClosedEarly,
        Error::Http(response) => {
            return Failure::new(Kind::Status, response.status().to_string());
        }
        // Tungstenite's word for an end of the stream without a close frame.
        Error::Protocol(_) | Error::ConnectionClosed | Error::AlreadyClosed => Kind::ClosedEarly,
        _ => Kind::Protocol,
    };
    Failure::new(kind, error.to_string())
}
