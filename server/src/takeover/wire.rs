//! The connection between the two processes: file descriptors first, then a JSON object a line.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    time::Duration,
};

use berth_schemas::Problem;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::Described;
use crate::{descriptors, visits::Visit};

/// The byte that the sockets come along with.
const BEGIN: u8 = b'B';
/// Longest line, in bytes.
const MAX_LINE: u64 = 64 << 10;

/// What the old process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum FromOld {
    Hello {
        protocol: u32,
        version: String,
        sockets: Vec<Described>,
        /// Seconds that its open requests may take, when it has stopped accepting.
        drain_s: u64,
    },
    Yours,
    /// A request that ended after the store was handed over.
    Visit(Box<Visit>),
}

/// What the new process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum FromNew {
    Prepared { version: String, migrations: Vec<String> },
    Refused { problem: Problem },
    Serving,
}

/// Sends descriptors along with one byte.
pub(super) fn send_sockets(to: &StdStream, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
    descriptors::send(to, &[BEGIN], sockets)
}

/// Receives the descriptors that [`send_sockets`] sent.
pub(super) fn receive_sockets(from: &StdStream) -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(descriptors::MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let got = rustix::net::recvmsg(
        from.as_fd(),
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if got.bytes != 1 || byte != [BEGIN] {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the old process did not begin as expected"));
    }
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            sockets.extend(fds);
        }
    }
    Ok(sockets)
}

/// One side's ear.
#[derive(Debug)]
pub(super) struct Ear(BufReader<OwnedReadHalf>);

/// One side's mouth.
#[derive(Debug)]
pub(super) struct Mouth(OwnedWriteHalf);

/// Both, of a connected socket.
pub(super) fn converse(stream: StdStream) -> io::Result<(Ear, Mouth)> {
    stream.set_nonblocking(true)?;
    let (ear, mouth) = UnixStream::from_std(stream)?.into_split();
    Ok((Ear(BufReader::new(ear)), Mouth(mouth)))
}

impl Ear {
    /// What the other says next; none when it is gone.
    pub(super) async fn hear<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut line = Vec::new();
        let mut limited = (&mut self.0).take(MAX_LINE);
        if limited.read_until(b'\n', &mut line).await? == 0 {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') {
            return Ok(None);
        }
        serde_json::from_slice(&line).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// As [`Self::hear`], within a time.
    pub(super) async fn hear_within<T: DeserializeOwned>(
        &mut self,
        limit: Duration,
    ) -> io::Result<Option<T>> {
        tokio::time::timeout(limit, self.hear()).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no word for {} s", limit.as_secs())))
        })
    }
}

impl Mouth {
    /// Says something.
    pub(super) async fn say<T: Serialize>(&mut self, what: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        self.0.write_all(&line).await
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn listening_sockets_and_words_go_across() {
        let (old, new) = StdStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        send_sockets(&old, &[listener.as_fd()]).unwrap();
        drop(listener);
        let mut taken = receive_sockets(&new).unwrap();
        assert_eq!(taken.len(), 1);
        let taken = TcpListener::from(taken.remove(0));
        assert_eq!(taken.local_addr().unwrap(), addr);
        std::net::TcpStream::connect(addr).unwrap();
        taken.accept().unwrap();

        let (_, mut mouth) = converse(old).unwrap();
        let (mut ear, _mouth) = converse(new).unwrap();
        mouth.say(&FromOld::Yours).await.unwrap();
        assert!(matches!(ear.hear().await.unwrap(), Some(FromOld::Yours)));
        drop(mouth);
        assert!(ear.hear::<FromOld>().await.unwrap().is_none(), "the other one is gone");
    }

    #[tokio::test]
    async fn garbage_and_endless_lines_are_refused() {
        for bad in [b"not json\n".to_vec(), vec![b'x'; 2 * MAX_LINE as usize]] {
            let (old, new) = StdStream::pair().unwrap();
            let (mut ear, _mouth) = converse(new).unwrap();
            old.set_nonblocking(true).unwrap();
            let mut raw = UnixStream::from_std(old).unwrap();
            let writing = tokio::spawn(async move {
                let _ = raw.write_all(&bad).await;
            });
            let heard = ear.hear::<FromOld>().await;
            assert!(!matches!(heard, Ok(Some(_))), "{heard:?}");
            drop((ear, _mouth));
            writing.await.unwrap();
        }
    }
}
