//! Tickets: what a consent page was shown for, signed, so that the answer to it is an answer to that and comes from the
//! browser that was asked. Good for ten minutes, and until the daemon starts anew.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use ring::{hmac, rand::SystemRandom};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

/// How long a person may think, in seconds.
const GOOD_FOR: i64 = 600;

/// Makes and reads tickets. Without randomness it makes none.
pub(super) struct Tickets(Option<hmac::Key>);

#[derive(Serialize, Deserialize)]
struct Ticket<T> {
    of: T,
    browser: String,
    until: i64,
}

impl Tickets {
    pub(super) fn new() -> Self {
        Self(hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok())
    }

    /// A secret for a browser to keep as a cookie.
    pub(super) fn browser() -> Option<String> {
        let mut bytes = [0u8; 24];
        getrandom::fill(&mut bytes).ok()?;
        Some(BASE64.encode(bytes))
    }

    /// A ticket for `of`, for the browser with this secret; `now` in seconds.
    pub(super) fn make(&self, of: impl Serialize, browser: &str, now: i64) -> Option<String> {
        let ticket = Ticket { of, browser: digest(browser), until: now + GOOD_FOR };
        let content = BASE64.encode(serde_json::to_vec(&ticket).ok()?);
        let tag = hmac::sign(self.0.as_ref()?, content.as_bytes());
        Some(format!("{content}.{}", BASE64.encode(tag)))
    }

    /// What a ticket is for, if it is ours, this browser's and not too old.
    pub(super) fn read<T: DeserializeOwned>(&self, ticket: &str, browser: &str, now: i64) -> Option<T> {
        let (content, tag) = ticket.split_once('.')?;
        hmac::verify(self.0.as_ref()?, content.as_bytes(), &BASE64.decode(tag).ok()?).ok()?;
        let ticket: Ticket<T> = serde_json::from_slice(&BASE64.decode(content).ok()?).ok()?;
        (ticket.until > now && ticket.browser == digest(browser)).then_some(ticket.of)
    }
}

fn digest(browser: &str) -> String {
    BASE64.encode(Sha256::digest(browser.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_for_its_browser_and_its_time() {
        let tickets = Tickets::new();
        let browser = Tickets::browser().unwrap();
        let ticket = tickets.make("x", &browser, 100).unwrap();
        assert_eq!(tickets.read::<String>(&ticket, &browser, 699).as_deref(), Some("x"));
        assert_eq!(tickets.read::<String>(&ticket, &browser, 700), None);
        assert_eq!(tickets.read::<String>(&ticket, &Tickets::browser().unwrap(), 101), None);
        assert_eq!(Tickets::new().read::<String>(&ticket, &browser, 101), None);
        for at in 0..ticket.len() {
            let mut changed = ticket.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // The last character of unpadded base64 may hold bits that mean nothing.
            if at + 1 < ticket.len() {
                assert_eq!(tickets.read::<String>(&changed, &browser, 101), None, "{at}");
            }
        }
    }
}
