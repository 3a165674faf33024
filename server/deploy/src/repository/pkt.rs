//! git's pkt-lines (gitprotocol-common) and side-band packets, and the commands of a push
//! (gitprotocol-pack): bytes in, values out. Pure but for the reader that bytes come from.

use tokio::io::{AsyncRead, AsyncReadExt};

/// Ends a section.
pub(crate) const FLUSH: &[u8] = b"0000";
/// Largest packet, with its four digits of length.
const MAX_PACKET: usize = 65_520;
/// Largest side-band packet for a client that knows only the old size.
const SMALL_PACKET: usize = 1000;

/// Why bytes are no pkt-lines.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PktError {
    /// The length is none.
    #[error("a packet's length is {0:?}")]
    Length(String),
    /// There are more or longer packets than a push may have.
    #[error("{0}")]
    TooMuch(&'static str),
    /// What stands in a packet makes no sense here.
    #[error("{0}")]
    Nonsense(String),
    /// The sender stopped.
    #[error("the connection broke off: {0}")]
    Read(#[from] std::io::Error),
}

/// The packet with this content.
pub(crate) fn packet(content: &[u8]) -> Vec<u8> {
    let mut out = format!("{:04x}", content.len() + 4).into_bytes();
    out.extend_from_slice(content);
    out
}

/// Reads one packet; none for a flush.
pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Vec<u8>>, PktError> {
    let mut digits = [0_u8; 4];
    from.read_exact(&mut digits).await?;
    let wrong = || PktError::Length(String::from_utf8_lossy(&digits).into_owned());
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong());
    }
    let text = std::str::from_utf8(&digits).map_err(|_| wrong())?;
    let length = usize::from_str_radix(text, 16).map_err(|_| wrong())?;
    match length {
        0 => Ok(None),
        4..=MAX_PACKET => {
            let mut content = vec![0; length - 4];
            from.read_exact(&mut content).await?;
            Ok(Some(content))
        }
        _ => Err(wrong()),
    }
}

/// A channel of the side-band.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Band {
    /// What the client's program reads.
    Data = 1,
    /// What its user reads.
    Progress = 2,
}

/// How answers are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SideBand {
    /// The client takes data only.
    None,
    /// Packets of up to 1000 bytes.
    Small,
    /// Packets of up to 64 KiB.
    Large,
}

impl SideBand {
    /// Packs content for a channel. Progress for a client that takes none is nothing.
    pub(crate) fn pack(self, band: Band, content: &[u8]) -> Vec<u8> {
        let most = match self {
            Self::None if band == Band::Data => return content.to_vec(),
            Self::None => return Vec::new(),
            Self::Small => SMALL_PACKET,
            Self::Large => MAX_PACKET,
        };
        let mut out = Vec::with_capacity(content.len() + 5);
        for piece in content.chunks(most - 5) {
            out.extend_from_slice(format!("{:04x}", piece.len() + 5).as_bytes());
            out.push(band as u8);
            out.extend_from_slice(piece);
        }
        out
    }

    /// Says nothing, so that whoever is in between sees that the connection lives.
    pub(crate) fn alive(self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            _ => b"0005\x02".to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn packets_are_read_as_they_were_written() {
        let mut bytes = packet(b"hello\n");
        bytes.extend_from_slice(FLUSH);
        let mut from = bytes.as_slice();
        assert_eq!(read(&mut from).await.unwrap().as_deref(), Some(b"hello\n".as_slice()));
        assert_eq!(read(&mut from).await.unwrap(), None);
        assert!(matches!(read(&mut from).await, Err(PktError::Read(_))));
        for bad in ["0003", "00zz", "+001", "fff1"] {
            assert!(matches!(read(&mut bad.as_bytes()).await, Err(PktError::Length(_))), "{bad}");
        }
    }

    #[test]
    fn side_bands_cut_what_is_long() {
        let packed = SideBand::Small.pack(Band::Progress, &[b'x'; 1500]);
        assert_eq!(packed.len(), 1500 + 2 * 5);
        assert_eq!(&packed[..5], b"03e8\x02");
        assert_eq!(SideBand::None.pack(Band::Progress, b"x"), b"");
        assert_eq!(SideBand::None.pack(Band::Data, b"x"), b"x");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut from = bytes.as_slice();
                while let Ok(Some(_)) = read(&mut from).await {}
            });
        }
    }
}
