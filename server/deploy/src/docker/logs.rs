//! A container's output as lines with times.

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptions;
use futures_util::{StreamExt, TryStreamExt, future, stream};

use super::client::Docker;
use super::engine::{ContainerId, LogLine, LogOptions, LogStream, OutputStream};

/// The engine cuts lines at 16 KiB itself; this holds if another one does not.
const MAX_LINE: usize = 16 << 10;

impl Docker {
    pub(super) fn log_lines(&self, id: &ContainerId, options: LogOptions) -> LogStream {
        let (docker, id) = (self.clone(), id.clone());
        let since = options.since_nanos.unwrap_or(i64::MIN);
        let query = LogsOptions {
            follow: options.follow,
            stdout: true,
            stderr: true,
            // The parameter knows whole seconds only: the rest is cut off below.
            since: options
                .since_nanos
                .and_then(|n| i32::try_from(n / 1_000_000_000).ok())
                .unwrap_or_default(),
            timestamps: true,
            tail: options.tail.map_or_else(|| "all".to_owned(), |n| n.to_string()),
            ..Default::default()
        };
        stream::once(async move {
            docker.must_own_container(&id).await?;
            let client = docker.client().await?;
            let what = format!("logs of container {}", id.short());
            let lines = client.logs(id.as_str(), Some(query)).then(move |output| {
                let (docker, what) = (docker.clone(), what.clone());
                async move {
                    match output {
                        Ok(output) => Ok(line_of(output)),
                        Err(error) => Err(docker.translate(&what, error).await),
                    }
                }
            });
            Ok(lines)
        })
        .try_flatten()
        .try_filter(move |line| future::ready(line.at_nanos > since))
        .boxed()
    }
}

fn line_of(output: LogOutput) -> LogLine {
    let stream = match output {
        LogOutput::StdErr { .. } => OutputStream::Stderr,
        _ => OutputStream::Stdout,
    };
    let bytes = output.into_bytes();
    let (at_nanos, bytes) = timestamp(&bytes);
    let partial = !bytes.ends_with(b"\n");
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    let bytes = &bytes[..bytes.len().min(MAX_LINE)];
    LogLine { at_nanos, stream, text: String::from_utf8_lossy(bytes).into_owned(), partial }
}

/// Splits off the time that the engine writes before each line.
fn timestamp(line: &[u8]) -> (i64, &[u8]) {
    let Some(space) = line.iter().take(40).position(|b| *b == b' ') else { return (0, line) };
    let at = std::str::from_utf8(&line[..space]).ok().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    match at {
        Some(at) => (i64::try_from(at.as_nanosecond()).unwrap_or_default(), &line[space + 1..]),
        None => (0, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> LogLine {
        line_of(LogOutput::StdErr { message: text.to_vec().into() })
    }

    #[test]
    fn a_line_has_its_time_and_text() {
        let line = read(b"2026-01-02T03:04:05.000000007Z listening on :3000\r\n");
        assert_eq!(line.at_nanos, 1_767_323_045_000_000_007);
        assert_eq!(
            (line.text.as_str(), line.stream, line.partial),
            ("listening on :3000", OutputStream::Stderr, false)
        );
    }

    #[test]
    fn what_is_odd_is_kept_as_well_as_can_be() {
        assert_eq!(read(b"no time here\n").text, "no time here");
        assert_eq!(read(b"2026-01-02T03:04:05Z \xff\xfe\n").text, "\u{fffd}\u{fffd}");
        assert!(read(b"2026-01-02T03:04:05Z cut").partial);
        assert_eq!(read(b"2026-01-02T03:04:05Z \n").text, "");
        assert_eq!(read(&[b'x'; MAX_LINE + 9]).text.len(), MAX_LINE);
    }
}
