//! Bytes of a request: whatever they are, each item ends as something kept or as a count, and what is kept can be read.
#![no_main]

use berth_observe::errors::{
    accept::{self, Reading},
    auth,
    envelope::{Envelope, MAX_ITEMS},
    scrub::ScrubRules,
};
use berth_schemas::Timestamp;

const ID: &str = "0123456789abcdef0123456789abcdef";

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let rules = ScrubRules::default();
    let reading = Reading { rules: &rules, peer: "203.0.113.9".parse().ok(), now: Timestamp(0), new_id: || ID.into(), admits: &|_, _| true };
    let parsed = Envelope::parse(data);
    let accepted = accept::envelope(data, &reading);
    assert_eq!(parsed.is_ok(), accepted.is_ok());
    if let (Ok(envelope), Ok(accepted)) = (parsed, accepted) {
        assert!(envelope.items.len() <= MAX_ITEMS);
        if let Some(dsn) = envelope.text("dsn") {
            let _ = auth::in_dsn(dsn);
        }
        let silent = envelope.items.iter().filter(|i| i.kind() == "client_report").count();
        assert!(accepted.items.len() + accepted.dropped.len() + silent >= envelope.items.len());
        for item in accepted.items {
            if let Some(id) = &item.event_id {
                assert_eq!(accept::event_id(id).as_deref(), Some(id.as_str()));
            }
            if item.kind.as_str() == "event" {
                let body: serde_json::Value = serde_json::from_slice(&item.body).expect("a kept event is JSON");
                assert!(body.is_object() && item.event_id.is_some());
            }
        }
    }
    // The other ways in take the same bytes.
    let _ = accept::store(data, &reading);
    let _ = accept::security(data, &[("release", "1".into())], &reading);
});
