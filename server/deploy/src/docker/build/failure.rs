//! What BuildKit's final sentence means. It comes as one string whose form changed between versions; the parts
//! that stayed are looked for. Pure.

use super::super::client::is_out_of_disk;
use super::super::error::EngineError;

/// What the progress knew about the step that failed.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct FailedStep {
    pub(super) name: String,
    pub(super) error: String,
    pub(super) tail: Vec<String>,
}

/// Turns the final error of a build into ours.
pub(super) fn classify(message: &str, failed: Option<FailedStep>) -> EngineError {
    let reason = essence(message);
    if is_out_of_disk(message)
        || failed.as_ref().is_some_and(|f| f.tail.iter().any(|line| is_out_of_disk(line)))
    {
        return EngineError::OutOfDisk { what: "the build".into() };
    }
    if let Some(error) = dockerfile_error(message) {
        return error;
    }
    let exit_code = exit_code(message).or_else(|| failed.as_ref().and_then(|f| exit_code(&f.error)));
    if exit_code.is_none()
        && let Some(error) = base_image_error(message, failed.as_ref())
    {
        return error;
    }
    match failed {
        Some(failed) => {
            EngineError::BuildFailed { step: Some(failed.name), exit_code, tail: failed.tail, reason }
        }
        None => EngineError::BuildFailed { step: None, exit_code, tail: Vec::new(), reason },
    }
}

/// The sentence without the layers that wrapped it.
fn essence(message: &str) -> String {
    let mut rest = message.trim();
    if let Some((_, inner)) =
        rest.strip_prefix("failed to solve with frontend ").and_then(|r| r.split_once(": "))
    {
        rest = inner;
    }
    for wrapper in [
        "failed to solve: ",
        "rpc error: code = Unknown desc = ",
        "failed to build LLB: ",
        "failed to create LLB definition: ",
        "failed to compute cache key: ",
        "failed to load cache key: ",
        "executor failed running ",
    ] {
        rest = rest.strip_prefix(wrapper).unwrap_or(rest);
    }
    rest.to_owned()
}

fn dockerfile_error(message: &str) -> Option<EngineError> {
    const PARSE: &str = "dockerfile parse error";
    if let Some(at) = message.find(PARSE) {
        let rest = message[at + PARSE.len()..].trim_start_matches(" on");
        let (line, reason) = match rest.strip_prefix(" line ").and_then(|r| r.split_once(": ")) {
            Some((line, reason)) => (line.parse().ok(), reason),
            None => (None, rest.trim_start_matches([':', ' '])),
        };
        return Some(EngineError::DockerfileInvalid { line, reason: reason.to_owned() });
    }
    let other = ["failed to read dockerfile", "the Dockerfile cannot be empty", "file with no instructions"]
        .iter()
        .any(|sign| message.contains(sign))
        || message.contains("target stage")
        || message.contains("invalid reference format");
    other.then(|| EngineError::DockerfileInvalid { line: None, reason: essence(message) })
}

fn exit_code(message: &str) -> Option<i32> {
    let (_, rest) = message.rsplit_once("exit code: ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// An image that could not be had. The step that failed names it, if it got that far. Any other step failed for
/// reasons of its own, whatever its message sounds like.
fn base_image_error(message: &str, failed: Option<&FailedStep>) -> Option<EngineError> {
    let image = match failed {
        Some(step) => image_of_step(&step.name)?.to_owned(),
        None => image_in(message)?,
    };
    registry_error(message, &image)
}

/// The image that a step fetches: a base image, that of `COPY --from`, or a frontend (`# syntax=`).
fn image_of_step(name: &str) -> Option<&str> {
    let image = ["[internal] load metadata for ", "resolve image config for ", "FROM "]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .or_else(|| name.split_once("] FROM ").map(|(_, image)| image))?;
    image.split_whitespace().next()
}

/// What a message of the engine about a registry means. `None` if it is about something else.
pub(in crate::docker) fn registry_error(message: &str, image: &str) -> Option<EngineError> {
    let has = |signs: &[&str]| signs.iter().any(|sign| message.contains(sign));
    let image = image.trim_start_matches("docker.io/library/").to_owned();
    let why = || message.rsplit_once("://").map_or(message, |_| essence_of_network(message)).to_owned();
    if has(&["pull access denied", "insufficient_scope", "authorization failed", "no basic auth credentials"])
        || has(&["unauthorized", "denied: "])
    {
        return Some(EngineError::PullDenied { image, why: essence(message) });
    }
    if has(&[
        "dial tcp",
        "no such host",
        "i/o timeout",
        "connection refused",
        "failed to do request",
        "TLS handshake",
    ]) || has(&[
        "request canceled while waiting",
        "Client.Timeout",
        "server misbehaving",
        "network is unreachable",
    ]) {
        return Some(EngineError::RegistryUnreachable { image, why: why() });
    }
    if has(&["manifest unknown", "repository does not exist", "name unknown"])
        || message.trim_end().ends_with(": not found")
        || (message.contains("manifest for") && message.contains("not found"))
    {
        return Some(EngineError::ImageNotFound { image });
    }
    None
}

/// The last part of a network error says it: `… dial tcp: lookup registry-1.docker.io: no such host`.
fn essence_of_network(message: &str) -> &str {
    message.find("dial tcp").map_or(message, |at| &message[at..])
}

/// The image in `docker.io/library/x:1: not found` and its like.
fn image_in(message: &str) -> Option<String> {
    let before = [": not found", ": failed to", ": pull access denied", ": manifest unknown"]
        .iter()
        .find_map(|sign| message.rsplit_once(sign))
        .map(|(before, _)| before)?;
    before
        .rsplit(' ')
        .next()
        .filter(|word| word.contains(['/', ':']) && !word.starts_with(['/', '"']))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, tail: &[&str]) -> Option<FailedStep> {
        Some(FailedStep {
            name: name.into(),
            error: String::new(),
            tail: tail.iter().map(|s| (*s).to_owned()).collect(),
        })
    }

    #[test]
    fn a_failing_command_keeps_its_step_code_and_last_lines() {
        for message in [
            "failed to solve with frontend dockerfile.v0: failed to build LLB: executor failed running [/bin/sh -c \
             npm ci]: exit code: 3",
            "failed to solve: process \"/bin/sh -c npm ci\" did not complete successfully: exit code: 3",
        ] {
            let error = classify(message, step("[2/2] RUN npm ci", &["npm error not found: x"]));
            let EngineError::BuildFailed { step, exit_code, tail, .. } = error else { panic!("{error:?}") };
            assert_eq!(step.as_deref(), Some("[2/2] RUN npm ci"));
            assert_eq!(exit_code, Some(3));
            assert_eq!(tail, ["npm error not found: x"]);
        }
    }

    #[test]
    fn a_dockerfile_error_has_its_line() {
        for message in [
            "failed to solve with frontend dockerfile.v0: failed to create LLB definition: dockerfile parse error \
             line 2: unknown instruction: RUNN",
            "dockerfile parse error on line 2: unknown instruction: RUNN",
        ] {
            assert_eq!(
                classify(message, None),
                EngineError::DockerfileInvalid { line: Some(2), reason: "unknown instruction: RUNN".into() }
            );
        }
    }

    #[test]
    fn what_is_wrong_with_a_base_image_is_told_apart() {
        let metadata = || step("[internal] load metadata for docker.io/library/nope:1", &[]);
        let unreachable = "failed to solve with frontend dockerfile.v0: failed to create LLB definition: failed to do \
                           request: Head https://registry-1.docker.io/v2/library/nope/manifests/1: dial tcp: lookup \
                           registry-1.docker.io: no such host";
        let error = classify(unreachable, metadata());
        let EngineError::RegistryUnreachable { image, why } = error else { panic!("{error:?}") };
        assert_eq!(
            (image.as_str(), why.as_str()),
            ("nope:1", "dial tcp: lookup registry-1.docker.io: no such host")
        );

        let missing = "failed to solve: docker.io/library/nope:1: not found";
        assert_eq!(classify(missing, None), EngineError::ImageNotFound { image: "nope:1".into() });

        let denied = "failed to solve: acme/private: pull access denied, repository does not exist or may require \
                      authorization";
        assert_eq!(classify(denied, None).code(), "pull_denied");
    }

    #[test]
    fn every_step_that_fetches_an_image_names_it() {
        for (name, image) in [
            ("[internal] load metadata for docker.io/library/node:22", Some("docker.io/library/node:22")),
            ("resolve image config for docker.io/docker/dockerfile:1", Some("docker.io/docker/dockerfile:1")),
            ("FROM docker.io/library/zzz:latest", Some("docker.io/library/zzz:latest")),
            (
                "[build 1/4] FROM docker.io/library/node:22@sha256:12",
                Some("docker.io/library/node:22@sha256:12"),
            ),
            ("[2/2] RUN psql -c 'SELECT 1 FROM t'", None),
        ] {
            assert_eq!(image_of_step(name), image, "{name}");
        }
    }

    #[test]
    fn a_missing_file_is_not_a_missing_image() {
        let message = "failed to compute cache key: \"/package.json\" not found: not found";
        let error = classify(message, step("[2/3] COPY package.json /app/", &[]));
        assert!(error.hint().unwrap().contains("not in the source"), "{error:?}");
    }

    #[test]
    fn a_step_that_speaks_of_something_not_found_is_a_failed_step() {
        for (name, message) in [
            ("[2/2] RUN --mount=type=secret,id=x cat x", "failed to solve: secret x: not found"),
            ("[2/2] RUN psql -c 'SELECT 1 FROM t'", "failed to solve: denied: not for you"),
        ] {
            assert_eq!(classify(message, step(name, &[])).code(), "build_failed", "{name}");
        }
    }

    #[test]
    fn a_full_disk_is_known_from_the_engine_and_from_a_steps_output() {
        assert_eq!(classify("failed to copy: write /x: no space left on device", None).code(), "out_of_disk");
        let error = classify(
            "exit code: 1",
            step("[2/2] RUN x", &["cp: error writing 'y': No space left on device"]),
        );
        assert_eq!(error.code(), "out_of_disk");
    }
}
