//! Who an event, a session or a log record is about: one person, known by an id, an e-mail address, a name or an address
//! on the network. Pure.

use std::net::IpAddr;

use serde_json::Value;

use super::read;

/// Longest name that is compared, in bytes; longer ones are cut, as those of events are.
const NAME: usize = 200;
/// Lists whose members are about somebody each: of containers, of counted sessions.
const LISTS: [&str; 2] = ["items", "aggregates"];
/// Attributes of spans, logs and metrics that name a person.
const ATTRIBUTES: [&str; 8] = [
    "user.id",
    "user.email",
    "user.name",
    "user.username",
    "user.ip_address",
    "enduser.id",
    "client.address",
    "client.ip",
];

/// A person, by one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    said: String,
    address: Option<IpAddr>,
    /// As it stands in JSON, in lower case.
    needle: String,
}

/// What remains of an item once what is about a person has been taken out.
#[derive(Debug, Clone, PartialEq)]
pub enum Rest {
    /// All of it.
    Whole,
    /// A part.
    Part(Value),
    /// Nothing.
    Nothing,
}

impl Person {
    /// The person with this name.
    #[must_use]
    pub fn new(said: &str) -> Self {
        let said = read::cut(said, NAME).to_owned();
        let address = said.parse::<IpAddr>().ok();
        let written = address.map_or_else(|| said.clone(), |address| address.to_string());
        let quoted = Value::from(written).to_string();
        let needle = quoted[1..quoted.len() - 1].to_ascii_lowercase();
        Self { said, address, needle }
    }

    /// The name.
    #[must_use]
    pub fn said(&self) -> &str {
        &self.said
    }

    /// Whether JSON has the name anywhere: what has not need not be read.
    #[must_use]
    pub fn may_be_in(&self, json: &[u8]) -> bool {
        std::str::from_utf8(json).is_ok_and(|text| text.to_ascii_lowercase().contains(&self.needle))
    }

    /// Whether an event is about this person.
    #[must_use]
    pub fn has(&self, json: &[u8]) -> bool {
        self.may_be_in(json) && serde_json::from_slice::<Value>(json).is_ok_and(|body| self.is_told_of(&body))
    }

    /// What remains of an item that is no event.
    #[must_use]
    pub fn taken_out(&self, json: &[u8]) -> Rest {
        let Some(mut body) =
            self.may_be_in(json).then(|| serde_json::from_slice::<Value>(json).ok()).flatten()
        else {
            return Rest::Whole;
        };
        if self.is_told_of(&body) {
            return Rest::Nothing;
        }
        let list = match &mut body {
            Value::Array(list) => Some(list),
            Value::Object(object) => match LISTS.iter().find(|key| object.contains_key(**key)) {
                Some(key) => object.get_mut(*key).and_then(Value::as_array_mut),
                None => None,
            },
            _ => None,
        };
        let Some(list) = list else { return Rest::Whole };
        let before = list.len();
        list.retain(|item| !self.is_told_of(item));
        match list.len() {
            left if left == before => Rest::Whole,
            0 => Rest::Nothing,
            _ => Rest::Part(body),
        }
    }

    /// Whether an object says of itself that it is about this person.
    fn is_told_of(&self, object: &Value) -> bool {
        let user = object.get("user");
        let of = |key: &str| user.and_then(|user| read::field(user, key, NAME));
        let exact = |name: Option<String>| name.is_some_and(|name| name == self.said);
        let loose = |name: Option<String>| name.is_some_and(|name| name.eq_ignore_ascii_case(&self.said));
        let address = |name: Option<String>| name.is_some_and(|name| self.is_at(&name));
        ["id", "username", "name"].into_iter().any(|key| exact(of(key)))
            || loose(of("email"))
            || address(of("ip_address"))
            || self.is_called(read::field(object, "did", NAME))
            || address(object.pointer("/attrs/ip_address").and_then(|a| read::text(Some(a), NAME)))
            || ["attributes", "data"].into_iter().any(|key| {
                let attributes = object.get(key);
                ATTRIBUTES.iter().any(|name| self.is_called(attributes.and_then(|a| attribute(a, name))))
            })
    }

    /// Whether a name that may be of any kind is this person's.
    fn is_called(&self, name: Option<String>) -> bool {
        name.is_some_and(|name| {
            name == self.said
                || self.is_at(&name)
                || (self.said.contains('@') && name.eq_ignore_ascii_case(&self.said))
        })
    }

    fn is_at(&self, address: &str) -> bool {
        self.address.is_some() && address.parse::<IpAddr>().ok() == self.address
    }
}

/// An attribute's value, which may stand in an object with its type.
fn attribute(attributes: &Value, name: &str) -> Option<String> {
    let value = attributes.get(name)?;
    read::text(Some(value.get("value").unwrap_or(value)), NAME)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn has(said: &str, body: &Value) -> bool {
        Person::new(said).has(body.to_string().as_bytes())
    }

    #[test]
    fn any_of_a_users_names_leads_to_the_event() {
        let user = json!({ "user": {
            "id": 7, "email": "Ann@Shop.example", "username": "änn \"A\"", "name": "Ann Äpfel", "ip_address": "2001:DB8::1",
        }});
        for said in ["7", "ann@shop.example", "änn \"A\"", "Ann Äpfel", "2001:db8:0::1"] {
            assert!(has(said, &user), "{said}");
        }
        let kept = json!({ "user": { "ip_address": "2001:db8::1" } });
        assert!(has("2001:db8:0::1", &kept) && has("2001:DB8::1", &kept));
        for said in ["70", "ann", "bob@shop.example", "shop.example", "2001:db8::2", "user", ""] {
            assert!(!has(said, &user) && !has(said, &kept), "{said}");
        }
    }

    #[test]
    fn what_only_mentions_a_name_is_not_about_the_person() {
        let body = json!({ "message": "mail to ann@shop.example failed", "user": { "id": "8" } });
        assert!(Person::new("ann@shop.example").may_be_in(body.to_string().as_bytes()));
        assert!(!has("ann@shop.example", &body));
    }

    #[test]
    fn of_what_tells_of_many_the_rest_stays() {
        let ann = Person::new("ann@shop.example");
        let rest = |body: Value| ann.taken_out(body.to_string().as_bytes());
        let log = |who: &str| json!({ "body": "x", "attributes": { "user.email": { "value": who, "type": "string" } } });
        let logs = json!({ "version": 2, "items": [log("ann@shop.example"), log("bob@shop.example")] });
        assert_eq!(rest(logs), Rest::Part(json!({ "version": 2, "items": [log("bob@shop.example")] })));
        assert_eq!(rest(json!({ "items": [log("ANN@shop.example")] })), Rest::Nothing);
        assert_eq!(rest(json!({ "items": [log("bob@shop.example")] })), Rest::Whole);
        assert_eq!(rest(json!({ "sid": "s", "did": "ann@shop.example" })), Rest::Nothing);
        assert_eq!(
            rest(json!({ "aggregates": [{ "did": "ann@shop.example" }, { "exited": 1 }] })),
            Rest::Part(json!({ "aggregates": [{ "exited": 1 }] }))
        );
        assert_eq!(rest(json!({ "user": { "email": "ann@shop.example" }, "spans": [] })), Rest::Nothing);
        let at = Person::new("203.0.113.0");
        let session = json!({ "did": "x", "attrs": { "ip_address": "203.0.113.0" } });
        assert_eq!(at.taken_out(session.to_string().as_bytes()), Rest::Nothing);
        assert_eq!(at.taken_out(b"not json 203.0.113.0"), Rest::Whole);
    }
}
