//! Putting values in place of references.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

use berth_schemas::{Code, Problem, VariableName};
use berth_store::model::VariableRow;
use sha2::{Digest, Sha256};

use super::{BadTemplate, BuiltIns, Part, Template};

/// Longest value in bytes, before and after what it refers to was put in.
pub const LONGEST_VALUE: usize = 64 * 1024;
/// Names of a chain that are told.
const MOST_TOLD: usize = 8;

/// Why a variable has no value. Names only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A `${` in it begins no reference.
    Malformed {
        /// From the variable to the one that is so.
        chain: Vec<VariableName>,
        /// How.
        why: BadTemplate,
    },
    /// It refers, directly or not, to what is not set.
    Unknown {
        /// From the variable to what is not set.
        chain: Vec<VariableName>,
    },
    /// It refers, directly or not, to one that refers to itself.
    Circle {
        /// From the variable around the circle; the last stands there before, too.
        chain: Vec<VariableName>,
    },
    /// With what it refers to, it is longer than [`LONGEST_VALUE`].
    TooLong {
        /// From the variable to the one that is so.
        chain: Vec<VariableName>,
    },
}

impl Fault {
    /// The names that lead to it.
    #[must_use]
    pub fn chain(&self) -> &[VariableName] {
        match self {
            Self::Malformed { chain, .. }
            | Self::Unknown { chain }
            | Self::Circle { chain }
            | Self::TooLong { chain } => chain,
        }
    }

    /// The same, as seen by a variable that refers to it.
    fn behind(&self, name: &VariableName) -> Self {
        let mut fault = self.clone();
        match &mut fault {
            Self::Malformed { chain, .. }
            | Self::Unknown { chain }
            | Self::Circle { chain }
            | Self::TooLong { chain } => {
                chain.insert(0, name.clone());
                shorten(chain);
            }
        }
        fault
    }
}

/// Leaves out of the middle of a chain what is not told of it.
fn shorten(chain: &mut Vec<VariableName>) {
    if chain.len() > 2 * MOST_TOLD {
        chain.drain(MOST_TOLD..chain.len() - MOST_TOLD);
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chain = self.chain();
        for (at, name) in chain.iter().enumerate() {
            match at {
                0 => write!(f, "{name}")?,
                1 => write!(f, " refers to {name}")?,
                // Both ends matter.
                _ if at >= MOST_TOLD && at + 2 < chain.len() => {
                    f.write_str(if at == MOST_TOLD { ", …" } else { "" })?;
                }
                _ => write!(f, ", which refers to {name}")?,
            }
        }
        let subject = if chain.len() > 1 { ", and" } else { ":" };
        match self {
            Self::Malformed { why, .. } => write!(f, "{subject} {why}"),
            Self::Unknown { .. } => f.write_str(", which is not set"),
            Self::Circle { .. } => f.write_str(", in a circle"),
            Self::TooLong { .. } => {
                write!(f, "{subject} with what it refers to, that is longer than {LONGEST_VALUE} bytes")
            }
        }
    }
}

/// What became of a variable.
#[derive(Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What a process gets.
    pub value: Result<String, Fault>,
    /// It is a secret, or refers to one.
    pub secret: bool,
    /// What it refers to itself, without repetition.
    pub refers_to: Vec<VariableName>,
    /// Changes when it, or what it refers to, is set anew. Tells nothing of the values that were set.
    pub(crate) stamp: String,
}

impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolved").field("secret", &self.secret).finish_non_exhaustive()
    }
}

/// Puts the values of variables, and of what Berth gives, in place of references.
#[must_use]
pub fn resolve<'v>(
    variables: impl IntoIterator<Item = &'v VariableRow>,
    given: &BuiltIns,
) -> BTreeMap<VariableName, Resolved> {
    let nodes: BTreeMap<&VariableName, Node<'_>> =
        variables.into_iter().map(|row| (&row.name, Node::of(row))).collect();
    let secret = secret(&nodes);
    let mut done: BTreeMap<VariableName, Resolved> = BTreeMap::new();
    let finish = |name: &VariableName, done: &mut BTreeMap<VariableName, Resolved>, value, stamp| {
        let Some(node) = nodes.get(name) else { return };
        let refers_to = node.refers_to.iter().map(|n| (*n).clone()).collect();
        done.insert(name.clone(), Resolved { value, secret: secret.contains(name), refers_to, stamp });
    };
    // Those whose references are all done, again and again.
    let mut missing: BTreeMap<&VariableName, usize> = BTreeMap::new();
    let mut users: BTreeMap<&VariableName, Vec<&VariableName>> = BTreeMap::new();
    let mut ready: VecDeque<&VariableName> = VecDeque::new();
    for (name, node) in &nodes {
        let wants: Vec<_> = node.refers_to.iter().filter(|to| nodes.contains_key(*to)).collect();
        wants.iter().for_each(|to| users.entry(to).or_default().push(name));
        missing.insert(name, wants.len());
        if wants.is_empty() {
            ready.push_back(name);
        }
    }
    while let Some(name) = ready.pop_front() {
        let Some(node) = nodes.get(name) else { continue };
        let (value, stamp) = (node.value(&done, given), node.stamp(&done, given));
        finish(name, &mut done, value, stamp);
        for user in users.get(name).into_iter().flatten() {
            if let Some(left) = missing.get_mut(user) {
                *left -= 1;
                if *left == 0 {
                    ready.push_back(user);
                }
            }
        }
    }
    // What is left is in a circle, or leads to one.
    let left: Vec<&VariableName> = nodes.keys().filter(|n| !done.contains_key(**n)).copied().collect();
    for (name, fault) in circles(&left, &nodes, &done) {
        finish(name, &mut done, Err(fault), String::new());
    }
    done
}

/// A variable with its references.
struct Node<'v> {
    row: &'v VariableRow,
    template: Result<Template, BadTemplate>,
    refers_to: BTreeSet<VariableName>,
}

impl<'v> Node<'v> {
    fn of(row: &'v VariableRow) -> Self {
        let template = match row.refers {
            true => Template::parse(&row.value),
            false => Ok(Template::literal(&row.value)),
        };
        let refers_to = template.iter().flat_map(Template::names).cloned().collect();
        Self { row, template, refers_to }
    }

    /// Its value, when those of what it refers to are done.
    fn value(&self, done: &BTreeMap<VariableName, Resolved>, given: &BuiltIns) -> Result<String, Fault> {
        let name = &self.row.name;
        let template = match &self.template {
            Ok(template) => template,
            Err(why) => return Err(Fault::Malformed { chain: vec![name.clone()], why: *why }),
        };
        if !self.row.refers {
            return Ok(self.row.value.clone());
        }
        let mut value = String::new();
        for part in template.parts() {
            let unknown;
            let piece = match part {
                Part::Text(text) => text.as_str(),
                Part::Reference(to) => match (done.get(to), given.get(to)) {
                    (Some(Resolved { value: Ok(value), .. }), _) => value,
                    (Some(Resolved { value: Err(fault), .. }), _) => return Err(fault.behind(name)),
                    (None, Some(Some(value))) => value,
                    (None, Some(None)) => {
                        unknown = format!("${{{to}}}");
                        &unknown
                    }
                    (None, None) => return Err(Fault::Unknown { chain: vec![name.clone(), to.clone()] }),
                },
            };
            if value.len() + piece.len() > LONGEST_VALUE {
                return Err(Fault::TooLong { chain: vec![name.clone()] });
            }
            value.push_str(piece);
        }
        Ok(value)
    }

    fn stamp(&self, done: &BTreeMap<VariableName, Resolved>, given: &BuiltIns) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{}={};", self.row.name, self.row.updated_at.micros()));
        for to in &self.refers_to {
            let part = match (done.get(to), given.get(to)) {
                (Some(resolved), _) => resolved.stamp.as_str(),
                (None, value) => value.flatten().unwrap_or_default(),
            };
            hash.update(format!("{to}={part};"));
        }
        hex::encode(&hash.finalize()[..16])
    }
}

/// The variables that are secrets, or refer to one.
fn secret<'n>(nodes: &'n BTreeMap<&'n VariableName, Node<'_>>) -> BTreeSet<&'n VariableName> {
    let mut users: BTreeMap<&VariableName, Vec<&VariableName>> = BTreeMap::new();
    for (name, node) in nodes {
        node.refers_to.iter().for_each(|to| users.entry(to).or_default().push(name));
    }
    let mut secret: BTreeSet<&VariableName> =
        nodes.iter().filter(|(_, node)| node.row.secret).map(|(name, _)| *name).collect();
    let mut look: Vec<&VariableName> = secret.iter().copied().collect();
    while let Some(name) = look.pop() {
        for user in users.get(name).into_iter().flatten() {
            if secret.insert(user) {
                look.push(user);
            }
        }
    }
    secret
}

/// For each of those that cannot be done, the way into a circle and around it.
fn circles<'n>(
    left: &[&'n VariableName],
    nodes: &BTreeMap<&'n VariableName, Node<'_>>,
    done: &BTreeMap<VariableName, Resolved>,
) -> BTreeMap<&'n VariableName, Fault> {
    // Each has at least one that is not done either; following the first of them must come around.
    let open: BTreeSet<&VariableName> = left.iter().copied().collect();
    let next: BTreeMap<&VariableName, &VariableName> = left
        .iter()
        .filter_map(|name| {
            let to =
                nodes.get(name)?.refers_to.iter().find(|to| !done.contains_key(*to) && open.contains(to))?;
            Some((*name, *open.get(to)?))
        })
        .collect();
    let mut faults: BTreeMap<&VariableName, Fault> = BTreeMap::new();
    for start in left {
        let (mut path, mut seen, mut at) = (Vec::new(), BTreeMap::new(), *start);
        while let Some(to) = next.get(at).filter(|_| !faults.contains_key(at) && !seen.contains_key(at)) {
            seen.insert(at, path.len());
            path.push(at);
            at = to;
        }
        if let Some(begin) = seen.get(at) {
            let around = path.split_off(*begin);
            for (turn, name) in around.iter().enumerate() {
                let (before, after) = around.split_at(turn);
                let mut chain: Vec<VariableName> = after.iter().chain(before).map(|n| (*n).clone()).collect();
                chain.push((*name).clone());
                shorten(&mut chain);
                faults.insert(name, Fault::Circle { chain });
            }
        }
        for name in path.into_iter().rev() {
            if let Some(fault) = next.get(name).and_then(|to| faults.get(to)) {
                let fault = fault.behind(name);
                faults.insert(name, fault);
            }
        }
    }
    faults
}

/// Faults as a caller sees them, if there are any.
#[must_use]
pub fn problem_of(whose: &str, faults: &[Fault]) -> Option<Problem> {
    let first = faults.first()?;
    let more = match faults.len() {
        1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    let (code, hint) = match first {
        Fault::Unknown { .. } => (
            Code::MissingVariable,
            "Set it with variable_set, or write $${ where the characters ${ are meant. variable_list shows what refers to what.",
        ),
        Fault::Malformed { .. } => {
            (Code::InvalidInput, "A reference is ${NAME}; write $${ where the characters ${ are meant.")
        }
        Fault::Circle { .. } => (
            Code::InvalidInput,
            "A variable may refer to itself neither directly nor through others; a value of the same name in another scope cannot be referred to.",
        ),
        Fault::TooLong { .. } => (Code::TooLarge, "Shorten it, or what it refers to; or ship it as a file."),
    };
    let missing = match first {
        Fault::Unknown { chain } => chain.last().map(ToString::to_string),
        _ => None,
    };
    let detail = format!("A variable of {whose} has no value: {first}{more}.");
    Some(Problem::new(code, detail).hint(hint).candidates(missing.into_iter().collect()))
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
