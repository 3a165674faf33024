//! What clients send beside errors, in a line for people. Pure.

use berth_schemas::issue::TelemetryKind;
use serde_json::Value;

use super::read;

/// Records of an item that are told.
const TOLD: usize = 5;
/// Longest name or text of one, in bytes.
const LONG: usize = 200;

/// What an item says; none if it says nothing that fits a line.
#[must_use]
pub fn summary(kind: TelemetryKind, body: &Value) -> Option<String> {
    let of = |object: &Value, key: &str| read::field(object, key, LONG);
    let told = match kind {
        TelemetryKind::Transaction => {
            let op = body.pointer("/contexts/trace").and_then(|trace| of(trace, "op"));
            let spans = body.get("spans").and_then(Value::as_array).map_or(0, Vec::len);
            let parts =
                [of(body, "transaction"), op, took(body), (spans > 0).then(|| format!("{spans} spans"))];
            return joined(parts, ", ");
        }
        TelemetryKind::Session => {
            let attrs = body.get("attrs").unwrap_or(&Value::Null);
            let counted = body.get("aggregates").and_then(Value::as_array);
            let counted = counted.map(|list| format!("{} stretches", list.len()));
            return joined(
                [of(body, "status"), counted, of(attrs, "release"), of(attrs, "environment")],
                ", ",
            );
        }
        TelemetryKind::CheckIn => {
            return joined([of(body, "monitor_slug"), of(body, "status"), None, None], ": ");
        }
        TelemetryKind::ReplayEvent => {
            let urls = body.get("urls").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            urls.iter().map(|url| read::text(Some(url), LONG)).collect::<Vec<_>>()
        }
        TelemetryKind::Logs => records(body)
            .iter()
            .map(|log| joined([of(log, "level"), of(log, "body"), None, None], ": "))
            .collect(),
        TelemetryKind::Spans => records(body)
            .iter()
            .map(|span| {
                joined(
                    [of(span, "op"), of(span, "name").or_else(|| of(span, "description")), took(span), None],
                    " ",
                )
            })
            .collect(),
        TelemetryKind::Metrics => records(body)
            .iter()
            .map(|metric| joined([of(metric, "name"), of(metric, "value"), of(metric, "unit"), None], " "))
            .collect(),
        TelemetryKind::ReplayRecording | TelemetryKind::Profile => return None,
    };
    let (all, told) = (told.len(), told.into_iter().take(TOLD).flatten().collect::<Vec<_>>());
    let more = (all > TOLD).then(|| format!("and {} more", all - TOLD));
    joined([(!told.is_empty()).then(|| told.join("; ")), more, None, None], "; ")
}

/// The records that a container holds, or the one that an item is.
fn records(body: &Value) -> &[Value] {
    match body.get("items").unwrap_or(body) {
        Value::Array(list) => list,
        one => std::slice::from_ref(one),
    }
}

/// How long something took, in milliseconds.
fn took(of: &Value) -> Option<String> {
    let end = of.get("timestamp").or_else(|| of.get("end_timestamp"));
    let (begin, end) = (read::time(of.get("start_timestamp"))?, read::time(end)?);
    Some(format!("{} ms", end.millis_since(begin)))
}

fn joined(parts: [Option<String>; 4], with: &str) -> Option<String> {
    let parts: Vec<String> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    (!parts.is_empty()).then(|| parts.join(with))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_came_is_said_in_a_line() {
        let log = |n: usize| json!({ "level": "warn", "body": format!("disk {n}") });
        let logs = json!({ "items": (0..7).map(log).collect::<Vec<_>>() });
        let told = summary(TelemetryKind::Logs, &logs).unwrap();
        assert_eq!(told, "warn: disk 0; warn: disk 1; warn: disk 2; warn: disk 3; warn: disk 4; and 2 more");
        assert_eq!(summary(TelemetryKind::Logs, &log(1)).unwrap(), "warn: disk 1", "one by itself");
        let transaction = json!({ "transaction": "GET /cart", "contexts": { "trace": { "op": "http.server" } },
            "start_timestamp": 1000.5, "timestamp": 1000.75, "spans": [{}, {}] });
        assert_eq!(
            summary(TelemetryKind::Transaction, &transaction).unwrap(),
            "GET /cart, http.server, 250 ms, 2 spans"
        );
        let span = json!({ "items": [{ "name": "SELECT", "start_timestamp": 1, "end_timestamp": 2 }] });
        assert_eq!(summary(TelemetryKind::Spans, &span).unwrap(), "SELECT 1000 ms");
        let beat = json!({ "monitor_slug": "nightly", "status": "ok" });
        assert_eq!(summary(TelemetryKind::CheckIn, &beat).unwrap(), "nightly: ok");
        let replay = json!({ "urls": ["https://shop.example/"] });
        assert_eq!(summary(TelemetryKind::ReplayEvent, &replay).unwrap(), "https://shop.example/");
        let metric = json!({ "items": [{ "name": "queue", "value": 3.5, "unit": "job" }] });
        assert_eq!(summary(TelemetryKind::Metrics, &metric).unwrap(), "queue 3.5 job");
        for (kind, body) in [
            (TelemetryKind::Logs, json!([])),
            (TelemetryKind::Logs, json!("x")),
            (TelemetryKind::Transaction, Value::Null),
            (TelemetryKind::Session, json!({ "attrs": 7 })),
            (TelemetryKind::Profile, json!({ "name": "x" })),
        ] {
            assert_eq!(summary(kind, &body), None, "{kind:?}");
        }
    }
}
