//! Static releases: files from a directory, served as a good static host would.
//!
//! [`resolve`] decides which names a path may mean, [`conditional`] what a client already has or wants a part
//! of; both are pure. This file opens, reads and writes. Files are opened by the kernel *beneath* the release's
//! directory (`openat2` with `RESOLVE_BENEATH`): whatever a path or a symbolic link says, nothing outside can be
//! reached. All file work happens on the blocking pool, in pieces, so that a large download holds one piece of
//! memory.

mod conditional;
mod resolve;

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::UNIX_EPOCH,
};

use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora::{
    ErrorType, OrErr, Result,
    http::{RequestHeader, ResponseHeader},
    protocols::http::ServerSession,
};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use self::{
    conditional::{ByteRange, Validators},
    resolve::{Encoding, Lookup},
};
use crate::{error::ProxyError, stamp::Stamp};

/// Files up to this size are read in the same trip to the blocking pool that opens them.
const SMALL: u64 = 64 << 10;
/// Larger files are read in pieces of this size.
const PIECE: usize = 128 << 10;

/// What a static release serves.
#[derive(Debug, Clone)]
pub struct StaticSite {
    /// The directory of the release.
    pub root: PathBuf,
    /// Answer paths that name no file with `/index.html` and 200, as single-page applications want. Paths whose
    /// last segment has an extension still get 404, so that a missing script is not answered with HTML.
    pub spa_fallback: bool,
}

impl StaticSite {
    /// A site without single-page fallback.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), spa_fallback: false }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct StaticFiles {
    root: Arc<OwnedFd>,
    spa_fallback: bool,
}

/// A file that answers a request.
struct Found {
    file: File,
    length: u64,
    validators: Validators,
    /// The name to take the content type from, without `.br` or `.gz`.
    name: String,
    encoding: Option<Encoding>,
    status: StatusCode,
    /// The contents, when small and wanted.
    contents: Option<Bytes>,
}

enum Answer {
    File(Box<Found>),
    /// To the same path with a slash.
    AddSlash,
    /// 404, with the site's own page if it has one.
    Missing(Option<Box<Found>>),
}

impl StaticFiles {
    pub(crate) fn open(site: StaticSite) -> std::result::Result<Self, ProxyError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&site.root, flags, Mode::empty())
            .map_err(|errno| ProxyError::StaticRoot { path: site.root, source: errno.into() })?;
        Ok(Self { root: Arc::new(root), spa_fallback: site.spa_fallback })
    }

    /// Answers a request; always `true`, as Pingora wants it for "answered".
    pub(crate) async fn serve(&self, session: &mut ServerSession, stamp: &Stamp) -> Result<bool> {
        session.set_total_drain_timeout(Some(std::time::Duration::from_secs(5)));
        let request = session.req_header();
        if request.method != Method::GET && request.method != Method::HEAD {
            let mut head = head(StatusCode::METHOD_NOT_ALLOWED)?;
            head.insert_header(header::ALLOW, "GET, HEAD")?;
            head.insert_header(header::CONTENT_LENGTH, 0)?;
            stamp.send(session, head).await?;
            return Ok(true);
        }
        let path = request.uri.path();
        let rewritten = stamp.rules.as_ref().and_then(|rules| rules.rewrite(path));
        let lookup = Lookup::new(rewritten.as_deref().unwrap_or(path), accepts(request), self.spa_fallback);
        let files = self.clone();
        let answer = tokio::task::spawn_blocking(move || files.find(&lookup))
            .await
            .or_err(ErrorType::InternalError, "the file lookup was ended")?
            .or_err(ErrorType::FileReadError, "a file of the release cannot be read")?;
        match answer {
            Answer::AddSlash => add_slash(session, stamp).await?,
            Answer::File(found) => send_found(session, *found, stamp).await?,
            Answer::Missing(Some(found)) => send_whole(session, *found, stamp).await?,
            Answer::Missing(None) => missing(session, stamp).await?,
        }
        Ok(true)
    }

    fn find(&self, lookup: &Lookup) -> io::Result<Answer> {
        for name in lookup.candidates() {
            if let Some(found) = self.open_best(&name, lookup.accepts(), StatusCode::OK)? {
                return Ok(Answer::File(Box::new(found)));
            }
        }
        if let Some(directory) = lookup.directory_without_slash()
            && self.open_file(&format!("{directory}/index.html"))?.is_some()
        {
            return Ok(Answer::AddSlash);
        }
        if lookup.may_fall_back()
            && let Some(found) = self.open_best("index.html", lookup.accepts(), StatusCode::OK)?
        {
            return Ok(Answer::File(Box::new(found)));
        }
        let page = self.open_best("404.html", lookup.accepts(), StatusCode::NOT_FOUND)?;
        Ok(Answer::Missing(page.map(Box::new)))
    }

    /// The file itself, or the smaller one beside it that the client can decode.
    fn open_best(&self, name: &str, accepts: &[Encoding], status: StatusCode) -> io::Result<Option<Found>> {
        let Some((file, length, validators)) = self.open_file(name)? else {
            return Ok(None);
        };
        let mut found =
            Found { file, length, validators, name: name.to_owned(), encoding: None, status, contents: None };
        for encoding in accepts {
            if let Some((file, length, validators)) =
                self.open_file(&format!("{name}{}", encoding.suffix()))?
            {
                found.encoding = Some(*encoding);
                found.validators = Validators { modified: found.validators.modified, ..validators };
                (found.file, found.length) = (file, length);
                break;
            }
        }
        if found.length <= SMALL {
            let mut contents = Vec::with_capacity(found.length as usize + 1);
            (&found.file).take(found.length).read_to_end(&mut contents)?;
            found.length = contents.len() as u64;
            found.contents = Some(contents.into());
        }
        Ok(Some(found))
    }

    /// A regular file beneath the root, or `None` for anything else.
    fn open_file(&self, name: &str) -> io::Result<Option<(File, u64, Validators)>> {
        use rustix::io::Errno;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = match rustix::fs::openat2(&*self.root, name, flags, Mode::empty(), beneath) {
            Ok(fd) => File::from(fd),
            // Not there; a way through a file; a link out of the release or in a circle; a name no file can have.
            Err(
                Errno::NOENT
                | Errno::NOTDIR
                | Errno::XDEV
                | Errno::LOOP
                | Errno::NAMETOOLONG
                | Errno::INVAL
                | Errno::ACCESS
                | Errno::NXIO
                | Errno::ISDIR,
            ) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let validators = Validators::new(metadata.len(), modified);
        Ok(Some((file, metadata.len(), validators)))
    }
}

fn accepts(request: &RequestHeader) -> Vec<Encoding> {
    // A part of an encoded file is of no use to those who ask for ranges.
    if request.headers.contains_key(header::RANGE) {
        return Vec::new();
    }
    let accepted = request.headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    resolve::encodings(accepted.unwrap_or_default())
}

fn head(status: StatusCode) -> Result<ResponseHeader> {
    let mut head = ResponseHeader::build(status, Some(12))?;
    head.insert_header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")?;
    Ok(head)
}

async fn add_slash(session: &mut ServerSession, stamp: &Stamp) -> Result<()> {
    let uri = &session.req_header().uri;
    // Never `//host`: a path that begins so is folded by the lookup and finds no directory here.
    let to = match uri.query() {
        Some(query) => format!("{}/?{query}", uri.path()),
        None => format!("{}/", uri.path()),
    };
    let mut head = head(StatusCode::PERMANENT_REDIRECT)?;
    head.insert_header(header::LOCATION, to)?;
    head.insert_header(header::CONTENT_LENGTH, 0)?;
    stamp.send(session, head).await
}

async fn missing(session: &mut ServerSession, stamp: &Stamp) -> Result<()> {
    const TEXT: &str = "404: this site has no such page.\n";
    let mut head = head(StatusCode::NOT_FOUND)?;
    head.insert_header(header::CONTENT_TYPE, "text/plain; charset=utf-8")?;
    head.insert_header(header::CONTENT_LENGTH, TEXT.len())?;
    head.insert_header(header::CACHE_CONTROL, "no-cache")?;
    send(session, stamp, head, Some(Bytes::from_static(TEXT.as_bytes()))).await
}

async fn send_found(session: &mut ServerSession, found: Found, stamp: &Stamp) -> Result<()> {
    let headers = &session.req_header().headers;
    if found.validators.client_has_it(headers) {
        let mut head = head(StatusCode::NOT_MODIFIED)?;
        describe(&mut head, &found)?;
        return stamp.send(session, head).await;
    }
    match found.validators.range(headers, found.length) {
        ByteRange::Whole => send_whole(session, found, stamp).await,
        ByteRange::Part { first, last } => send_part(session, found, first, last, stamp).await,
        ByteRange::Unsatisfiable => {
            let mut head = head(StatusCode::RANGE_NOT_SATISFIABLE)?;
            head.insert_header(header::CONTENT_RANGE, format!("bytes */{}", found.length))?;
            head.insert_header(header::CONTENT_LENGTH, 0)?;
            stamp.send(session, head).await
        }
    }
}

/// What a file is, however much of it is sent.
fn describe(head: &mut ResponseHeader, found: &Found) -> Result<()> {
    head.insert_header(header::CONTENT_TYPE, resolve::content_type(&found.name))?;
    head.insert_header(header::CACHE_CONTROL, resolve::cache_control(&found.name, found.status))?;
    head.insert_header(header::VARY, "accept-encoding")?;
    if found.status == StatusCode::OK {
        head.insert_header(header::ETAG, found.validators.etag.as_str())?;
        head.insert_header(header::LAST_MODIFIED, found.validators.last_modified())?;
        head.insert_header(header::ACCEPT_RANGES, "bytes")?;
    }
    if let Some(encoding) = found.encoding {
        head.insert_header(header::CONTENT_ENCODING, encoding.name())?;
    }
    Ok(())
}

async fn send_whole(session: &mut ServerSession, mut found: Found, stamp: &Stamp) -> Result<()> {
    let mut head = head(found.status)?;
    describe(&mut head, &found)?;
    head.insert_header(header::CONTENT_LENGTH, found.length)?;
    match found.contents.take() {
        Some(contents) => send(session, stamp, head, Some(contents)).await,
        None => stream(session, stamp, head, found.file, 0, found.length).await,
    }
}

async fn send_part(
    session: &mut ServerSession,
    found: Found,
    first: u64,
    last: u64,
    stamp: &Stamp,
) -> Result<()> {
    let mut head = head(StatusCode::PARTIAL_CONTENT)?;
    describe(&mut head, &found)?;
    head.insert_header(header::CONTENT_RANGE, format!("bytes {first}-{last}/{}", found.length))?;
    head.insert_header(header::CONTENT_LENGTH, last - first + 1)?;
    match found.contents {
        Some(contents) => {
            send(session, stamp, head, Some(contents.slice(first as usize..=last as usize))).await
        }
        None => stream(session, stamp, head, found.file, first, last - first + 1).await,
    }
}

async fn send(
    session: &mut ServerSession,
    stamp: &Stamp,
    head: ResponseHeader,
    body: Option<Bytes>,
) -> Result<()> {
    stamp.send(session, head).await?;
    match body {
        Some(body) if session.req_header().method != Method::HEAD => {
            session.write_response_body(body, true).await
        }
        _ => Ok(()),
    }
}

/// Reads the next piece while nothing waits for it but this client.
async fn stream(
    session: &mut ServerSession,
    stamp: &Stamp,
    head: ResponseHeader,
    file: File,
    from: u64,
    length: u64,
) -> Result<()> {
    stamp.send(session, head).await?;
    if session.req_header().method == Method::HEAD {
        return Ok(());
    }
    let mut file = Some(file);
    let (mut left, mut seek) = (length, (from > 0).then_some(from));
    while left > 0 {
        let Some(mut source) = file.take() else { break };
        let at = seek.take();
        let want = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
        let read = tokio::task::spawn_blocking(move || {
            if let Some(at) = at {
                source.seek(SeekFrom::Start(at))?;
            }
            let mut piece = vec![0; want];
            source.read_exact(&mut piece)?;
            io::Result::Ok((source, Bytes::from(piece)))
        });
        let (source, piece) = read
            .await
            .or_err(ErrorType::InternalError, "reading was ended")?
            .or_err(ErrorType::FileReadError, "a file of the release cannot be read")?;
        file = Some(source);
        left -= piece.len() as u64;
        session.write_response_body(piece, left == 0).await?;
    }
    Ok(())
}
