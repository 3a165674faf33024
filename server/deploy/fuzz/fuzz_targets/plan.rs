//! Files that detection reads: no text in them makes it panic, or gets into a generated Dockerfile as an
//! instruction.
#![no_main]

use berth_deploy::plan::{DockerfileSource, MemoryTree, PlanSettings, detect};

const NAMES: &[&str] = &[
    "package.json", "app.py", "requirements.txt", "pyproject.toml", "Procfile", ".nvmrc", "Dockerfile",
    ".python-version", "Pipfile", "index.html",
];
const KNOWN: &[&str] = &["#", "FROM ", "RUN ", "ENV ", "COPY ", "WORKDIR ", "USER ", "EXPOSE ", "CMD ", "ARG "];

libfuzzer_sys::fuzz_target!(|files: Vec<(u8, &str)>| {
    let name = |at: u8| NAMES[usize::from(at) % NAMES.len()];
    let tree = MemoryTree::new(files.into_iter().map(|(at, text)| (name(at), text)));
    if let Ok(plan) = detect(&tree, &PlanSettings::default())
        && let Some(DockerfileSource::Generated { text }) = &plan.dockerfile
    {
        for line in text.lines().filter(|line| !line.is_empty()) {
            assert!(KNOWN.iter().any(|word| line.starts_with(word)), "{line}");
        }
    }
});
