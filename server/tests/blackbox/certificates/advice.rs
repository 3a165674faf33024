//! Renewal information (RFC 9773) for a Pebble that has none.

#![allow(unreachable_pub, reason = "a part of a test")]

use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    pebble::Pebble,
    stand_in::{Says, StandIn},
};

/// The authority's advice: the first certificate that it is asked of is to be renewed at once, all others in months.
pub struct Advice {
    /// The directory to order from.
    pub directory: String,
    asked: Arc<Mutex<Vec<String>>>,
    far: (Timestamp, Timestamp),
    _server: StandIn,
}

impl Advice {
    /// Starts beside a Pebble.
    pub async fn start(pebble: &Pebble) -> Self {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let now = Timestamp::now();
        let days = |n: i64| now + SignedDuration::from_hours(24 * n);
        let (past, far) = ((days(-2), days(-1)), (days(100), days(101)));
        let noted = Arc::clone(&asked);
        let server = StandIn::start(pebble, "renewalInfo", move |id| {
            let mut asked = noted.lock().unwrap();
            asked.push(id.to_owned());
            let body = window(if asked[0] == id { past } else { far });
            Says { status: "200 OK", retry_after_s: 21_600, body }
        });
        let server = server.await;
        Self { directory: server.directory.clone(), asked, far, _server: server }
    }

    /// The certificates that it was asked of, in the order of the questions.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// When all but the first are to be renewed.
    pub fn window_of_others(&self) -> (String, String) {
        (self.far.0.to_string(), self.far.1.to_string())
    }
}

fn window((start, end): (Timestamp, Timestamp)) -> Value {
    json!({ "suggestedWindow": { "start": start.to_string(), "end": end.to_string() } })
}
