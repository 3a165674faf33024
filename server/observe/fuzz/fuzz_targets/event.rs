//! The JSON of an event: any object is scrubbed, read, grouped and shown; what is secret by its name stays nowhere.
#![no_main]

use berth_observe::errors::{
    event::Event,
    grouping,
    scrub::{self, ScrubRules},
    show::{self, About},
};
use berth_schemas::{EnvironmentName, Timestamp};
use serde_json::Value;

const SECRET: &str = "correct-horse-battery";

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(mut body @ Value::Object(_)) = serde_json::from_slice::<Value>(data) else { return };
    body["extra"] = serde_json::json!({ "password": SECRET, "was": body["extra"] });
    scrub::scrub(&mut body, &ScrubRules::default());
    assert!(!body.to_string().contains(SECRET));
    let Some(event) = Event::read(&body) else { return };
    let (one, two) = (grouping::group(1, &event), grouping::group(1, &event));
    assert!(one.strict == two.strict && one.loose == two.loose && one.strict.len() < 200);
    assert!(!event.kind().is_empty());
    let (_, _, _) = (event.value(), event.culprit(), event.user_key());
    let about = About {
        event_id: "0123456789abcdef0123456789abcdef".into(),
        issue: "WEB-1".parse().expect("a name"),
        at: Timestamp(0),
        environment: EnvironmentName::production(),
    };
    let shown = show::detail(about, &event, &body);
    serde_json::to_string(&shown).expect("what is shown can be written");
});
