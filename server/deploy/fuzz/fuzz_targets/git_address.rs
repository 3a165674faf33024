//! Addresses and refs: what passes can be no option, no other transport and no range.
#![no_main]

use berth_deploy::source::git::{GitRef, GitUrl};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok((url, _)) = GitUrl::parse(text, false) {
        let shown = url.as_str();
        assert!(["https://", "ssh://"].iter().any(|scheme| shown.starts_with(scheme)) || shown.contains('@'));
        assert!(!shown.starts_with('-') && !url.host().starts_with('-') && shown.is_ascii());
        assert_eq!(GitUrl::parse(shown, false).expect("its own form is accepted").0, url);
    }
    if let Ok(name) = GitRef::parse(text) {
        assert!(!name.as_str().starts_with('-') && !name.as_str().contains("..") && !name.as_str().contains(':'));
    }
});
