//! Payloads of every forge: what is read names branches that git can be given, and nothing panics.
#![no_main]

use berth_deploy::source::git::GitRef;
use berth_forge::webhook::{Told, delivery, read};
use berth_schemas::{push::GitChange, repository::ForgeKind};

const EVENTS: &[&str] = &[
    "push",
    "pull_request",
    "delete",
    "Push Hook",
    "Tag Push Hook",
    "Merge Request Hook",
    "repo:push",
    "pullrequest:created",
    "pullrequest:rejected",
];

libfuzzer_sys::fuzz_target!(|input: (u8, u8, &[u8])| {
    let (kind, event, body) = input;
    let kind = ForgeKind::ALL[usize::from(kind) % ForgeKind::ALL.len()];
    let event = EVENTS[usize::from(event) % EVENTS.len()];
    let _ = delivery(kind, &http::HeaderMap::new(), body);
    if let Ok(Told::Moved { changes, .. }) = read(kind, event, body) {
        for (change, _) in changes {
            if let GitChange::Branch { branch, .. } | GitChange::BranchDeleted { branch } = change {
                assert!(GitRef::parse(&branch).is_ok());
            }
        }
    }
});
