//! Lines out of what a program prints.

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::mpsc,
};

use super::OutputLine;

/// Hands on each line of a pipe until it closes, or nobody wants more.
pub(super) async fn read_lines(
    mut pipe: impl AsyncRead + Unpin,
    max_line: usize,
    wrap: fn(String) -> OutputLine,
    lines: mpsc::Sender<OutputLine>,
) {
    let mut splitter = LineSplitter::new(max_line);
    let mut chunk = vec![0_u8; 8192];
    let mut ready = Vec::new();
    loop {
        let read = match pipe.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        splitter.push(&chunk[..read], &mut ready);
        for line in ready.drain(..) {
            if lines.send(wrap(line)).await.is_err() {
                return;
            }
        }
    }
    if let Some(line) = splitter.finish() {
        let _ = lines.send(wrap(line)).await;
    }
}

/// Cuts a stream of bytes into lines of bounded length. Empty lines are dropped: they are what a `\r\n` or a
/// redrawn progress meter leaves behind.
#[derive(Debug)]
pub struct LineSplitter {
    line: Vec<u8>,
    max_line: usize,
    cut: bool,
}

impl LineSplitter {
    /// A splitter whose lines have at most `max_line` bytes.
    pub fn new(max_line: usize) -> Self {
        Self { line: Vec::new(), max_line, cut: false }
    }

    /// Takes the next bytes and appends the lines that they complete to `ready`.
    pub fn push(&mut self, bytes: &[u8], ready: &mut Vec<String>) {
        for &byte in bytes {
            if byte == b'\n' || byte == b'\r' {
                ready.extend(self.finish());
            } else if self.line.len() < self.max_line {
                self.line.push(byte);
            } else {
                self.cut = true;
            }
        }
    }

    /// The unfinished line at the end of the stream, if there is one.
    pub fn finish(&mut self) -> Option<String> {
        if self.line.is_empty() {
            return None;
        }
        let mut text = String::from_utf8_lossy(&self.line).into_owned();
        if std::mem::take(&mut self.cut) {
            text.push('…');
        }
        self.line.clear();
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_and_bad_utf8_is_kept_readable() {
        let mut splitter = LineSplitter::new(4);
        let mut lines = Vec::new();
        splitter.push(b"abcdefgh\nok\n\r\n\xff!", &mut lines);
        lines.extend(splitter.finish());
        assert_eq!(lines, ["abcd…", "ok", "\u{fffd}!"]);
    }
}
