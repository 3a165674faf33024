//! What is set per app: limits, scrubbing, injection.

use berth_schemas::issue::ErrorRules;

use super::scrub::ScrubRules;

/// The rules of scrubbing among the rules of an app.
#[must_use]
pub fn scrubbing(rules: &ErrorRules) -> ScrubRules {
    let lower = |names: &[String]| names.iter().map(|n| n.to_ascii_lowercase()).collect();
    ScrubRules {
        fields: lower(&rules.scrub_fields),
        keep: lower(&rules.keep_fields),
        keep_addresses: rules.keep_addresses,
    }
}
