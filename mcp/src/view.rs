//! What an endpoint's URL asks for: which tools, and whether only readers.
//!
//! `?tools=` takes groups, tools, `core` and `all`, separated by commas: `/mcp?tools=deploy,domains`,
//! `/mcp?tools=core,errors`. `?read_only=1` leaves only what changes nothing.

use std::collections::BTreeSet;

use berth_schemas::{Code, Problem, error::nearest};
use berth_tools::{Group, Registry, Tier, Tool};

use crate::surface::WRITE;

/// The core tier and the tools that reach the rest.
const CORE: &str = "core";
/// Every tool by itself.
const ALL: &str = "all";
/// Most names in a URL.
const MOST: usize = 100;

/// What the URL asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    read_only: bool,
    core: bool,
    all: bool,
    groups: BTreeSet<Group>,
    tools: BTreeSet<&'static str>,
}

impl Default for View {
    fn default() -> Self {
        Self { read_only: false, core: true, all: false, groups: BTreeSet::new(), tools: BTreeSet::new() }
    }
}

impl View {
    /// Reads the URL's query. Keys that it does not know it ignores, as other layers may use them, but not those that
    /// are nearly one of its own: whoever writes `readonly=1` must not get an endpoint that changes things.
    ///
    /// # Errors
    /// When a value means nothing, or a key is a misspelt one; the problem names what could have been meant.
    pub(crate) fn of(query: Option<&str>, registry: &Registry) -> Result<Self, Problem> {
        let mut view = Self::default();
        for pair in query.unwrap_or_default().split('&') {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("read_only", "" | "1" | "true") => view.read_only = true,
                ("read_only", "0" | "false") => view.read_only = false,
                ("read_only", other) => {
                    let detail = format!("read_only is {:?}; it must be 1 or 0.", shown(other));
                    return Err(Problem::invalid("read_only", detail));
                }
                ("tools", names) => view = view.showing(names, registry)?,
                (key, _) => refuse_misspelt(key)?,
            }
        }
        Ok(view)
    }

    fn showing(self, names: &str, registry: &Registry) -> Result<Self, Problem> {
        // A comma may come percent-encoded; the names themselves hold nothing to decode.
        let names = names.replace("%2C", ",").replace("%2c", ",");
        let names: Vec<&str> = names.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
        if names.len() > MOST {
            return Err(Problem::invalid("tools", format!("tools has more than {MOST} names.")));
        }
        let mut view = Self { core: names.is_empty(), ..self };
        for name in names {
            if let Some(group) = Group::parse(name) {
                view.groups.insert(group);
            } else if let Some(tool) = registry.get(name) {
                view.tools.insert(tool.spec.name);
            } else {
                match name {
                    CORE => view.core = true,
                    ALL => view.all = true,
                    _ => return Err(unknown(name, registry)),
                }
            }
        }
        Ok(view)
    }

    fn names(&self, tool: &Tool) -> bool {
        self.all || self.groups.contains(&tool.group) || self.tools.contains(tool.spec.name)
    }

    /// Whether changes are out of reach.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether it is the list that everybody gets who asks for nothing.
    pub(crate) fn is_core_alone(&self) -> bool {
        self.core && !self.all && self.groups.is_empty() && self.tools.is_empty()
    }

    /// Whether a tool may be called through this URL, shown or not; readers through one that only reads.
    pub(crate) fn reaches(&self, tool: &Tool) -> bool {
        (!self.read_only || is_harmless(tool)) && (self.core || self.names(tool))
    }

    /// Whether a tool stands in the list of this URL.
    pub(crate) fn shows(&self, tool: &Tool) -> bool {
        self.reaches(tool) && (tool.spec.tier == Tier::Core && self.core || self.names(tool))
    }

    /// Whether one of the three tools that reach the rest is there.
    pub(crate) fn shows_gateway(&self, name: &str) -> bool {
        self.core && !self.all && (name != WRITE || !self.read_only)
    }
}

/// Whether a client may call a tool without asking the person in front of it. Reading a secret changes nothing,
/// but what was read cannot be taken back out of a conversation.
pub(crate) fn is_harmless(tool: &Tool) -> bool {
    tool.is_harmless()
}

/// Refuses a key that somebody wrote who meant another one: `readonly`, `Read-Only`, `read%5Fonly`, `tool`.
fn refuse_misspelt(key: &str) -> Result<(), Problem> {
    /// Each key without what people write in different ways, how many letters in a row may be wrong, and as it is right.
    const KEYS: [(&str, usize, &str); 2] = [("readonly", 2, "read_only"), ("tools", 1, "tools")];
    let plain = key.to_ascii_lowercase().replace("%5f", "").replace("%2d", "");
    let plain: String = plain.chars().filter(char::is_ascii_alphanumeric).take(20).collect();
    let Some((.., meant)) = KEYS.iter().find(|(name, most, _)| differ(&plain, name) <= *most) else {
        return Ok(());
    };
    let detail = format!("The endpoint's address has {:?}, which means nothing.", shown(key));
    let problem = Problem { field: Some((*meant).into()), ..Problem::new(Code::InvalidInput, detail) };
    Err(problem.hint(format!("Write {meant}=… instead.")).candidates(vec![(*meant).into()]))
}

/// How many letters two words differ in, from the first that differs to the last.
fn differ(a: &str, b: &str) -> usize {
    let before = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let rest = |text: &str| text.bytes().skip(before).collect::<Vec<_>>();
    let (a, b) = (rest(a), rest(b));
    let after = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    a.len().max(b.len()) - after
}

fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

fn unknown(name: &str, registry: &Registry) -> Problem {
    let groups: Vec<String> = Group::ALL.iter().map(|g| g.as_str().to_owned()).collect();
    let tools = registry.tools().iter().map(|t| t.spec.name.to_owned());
    let known: Vec<String> = groups.iter().cloned().chain(tools).collect();
    let near = nearest(name, &known);
    let meant = match near.is_empty() {
        true => String::new(),
        false => format!("Did you mean {}? ", near.join(", ")),
    };
    let hint = format!(
        "{meant}The groups are {}; names of tools, {CORE} and {ALL} may stand beside them, with commas.",
        groups.join(", ")
    );
    let candidates = if near.is_empty() { groups } else { near };
    let detail =
        format!("The endpoint's address asks for tools={:?}, which is no group and no tool.", shown(name));
    let problem = Problem { field: Some("tools".into()), ..Problem::new(Code::InvalidInput, detail) };
    problem.hint(hint).candidates(candidates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(query: &str) -> Result<View, Problem> {
        View::of(Some(query), &berth_tools::registry())
    }

    fn shown_by(query: &str) -> Vec<&'static str> {
        let (registry, view) = (berth_tools::registry(), view(query).unwrap());
        registry.tools().iter().filter(|t| view.shows(t)).map(|t| t.spec.name).collect()
    }

    #[test]
    fn a_group_shows_its_tools_of_every_tier_and_no_others() {
        let shown = shown_by("tools=domains");
        assert!(shown.contains(&"domain_add") && shown.contains(&"dns_provider_add"), "{shown:?}");
        assert!(!shown.contains(&"app_get"));
        assert!(!view("tools=domains").unwrap().shows_gateway(crate::surface::SEARCH));
        let both = shown_by("tools=deploy,domains");
        assert!(both.len() > shown.len() && both.contains(&"deployment_create"));
        assert!(
            shown_by("tools=domains&read_only=1").iter().all(|t| t.ends_with("_get") || t.ends_with("_list"))
        );
    }

    #[test]
    fn core_and_tools_stand_beside_groups() {
        let shown = shown_by("tools=core,errors,event_list");
        for there in ["app_get", "error_get", "error_split", "event_list"] {
            assert!(shown.contains(&there), "{there}");
        }
        assert!(!shown.contains(&"token_create"));
        assert!(view("tools=core,errors").unwrap().shows_gateway(crate::surface::SEARCH));
        assert_eq!(view("tools=").unwrap(), View::default());
        assert_eq!(view("other=1").unwrap(), View::default());
        assert!(view("tools=core").unwrap().is_core_alone());
    }

    #[test]
    fn what_means_nothing_is_an_error_that_names_candidates() {
        let problem = view("tools=deploys").unwrap_err();
        assert_eq!(problem.field.as_deref(), Some("tools"));
        assert!(problem.candidates.contains(&"deploy".into()), "{:?}", problem.candidates);
        let hint = problem.hint.unwrap();
        assert!(hint.contains("Did you mean deploy") && hint.contains("variables"), "{hint}");
        assert!(view("tools=zzz").unwrap_err().hint.unwrap().starts_with("The groups are"));
        for (key, meant) in [
            ("readonly", "read_only"),
            ("readonly=1", "read_only"),
            ("read-only=1", "read_only"),
            ("READ_ONLY=1", "read_only"),
            ("readOnly=true", "read_only"),
            ("read%5Fonly=1", "read_only"),
            ("red_only=1", "read_only"),
            ("tool=deploy", "tools"),
            ("Tools=deploy", "tools"),
        ] {
            assert_eq!(view(key).unwrap_err().candidates, [meant], "{key}");
        }
        for other in ["", "&", "other=1", "token=x", "code=1", "read=1&topic=2"] {
            assert_eq!(view(other).unwrap(), View::default(), "{other}");
        }
        assert!(view("read_only=maybe").is_err());
        assert!(view(&format!("tools={}", "core,".repeat(101))).is_err());
    }
}
