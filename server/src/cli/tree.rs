//! The command tree: hand-made front doors, and one command per tool of the registry.
//!
//! `app_list` becomes `berth app list`. What a tool must be given is positional, path fields first; the rest
//! are flags, typed by the schema. A front door wins over a generated command of the same name; every tool can
//! be reached raw by `berth tool`.

use berth_tools::{Registry, Tool};
use clap::{Arg, ArgAction, Command};
use serde_json::Value;

use super::{doors, download};
use crate::{
    route,
    schema::{self, Field, Shape},
};

/// More words for a noun, as people type them.
const ALIASES: &[(&str, &str)] = &[("variable", "env"), ("deployment", "deployments"), ("app", "apps")];

/// The whole tree.
#[must_use]
pub fn command(registry: &Registry) -> Command {
    let mut root = Command::new("berth")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Deploys apps to your own machine, and looks after them")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .propagate_version(false)
        .disable_help_subcommand(true)
        .args(global());
    for door in doors::commands() {
        root = root.subcommand(door);
    }
    for noun in nouns(registry) {
        if root.find_subcommand(noun).is_none() {
            root = root.subcommand(noun_command(registry, noun));
        }
    }
    root
}

fn global() -> [Arg; 4] {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help).global(true).help_heading("Connection")
    };
    [
        text("url", "URL", "URL of the daemon").env("BERTH_URL"),
        text("token", "TOKEN", "Access token; better given as BERTH_TOKEN, which other users cannot see")
            .env("BERTH_TOKEN")
            .hide_env_values(true),
        text("context", "NAME", "Stored login to use").env("BERTH_CONTEXT"),
        Arg::new("json")
            .long("json")
            .action(ArgAction::SetTrue)
            .global(true)
            .help("Print the answer as JSON")
            .help_heading("Output"),
    ]
}

/// The nouns of the registry, each once.
fn nouns(registry: &Registry) -> Vec<&'static str> {
    let mut nouns: Vec<&str> = registry.tools().iter().map(|t| words(t.spec.name).0).collect();
    nouns.dedup();
    nouns
}

/// `app_list` → `app`, `list`.
#[must_use]
pub fn words(name: &'static str) -> (&'static str, &'static str) {
    name.split_once('_').unwrap_or((name, "run"))
}

/// The tool behind `berth NOUN VERB`.
#[must_use]
pub fn find<'r>(registry: &'r Registry, noun: &str, verb: &str) -> Option<&'r Tool> {
    registry.tools().iter().find(|t| {
        let (n, v) = words(t.spec.name);
        n == noun && v.replace('_', "-") == verb
    })
}

fn noun_command(registry: &Registry, noun: &'static str) -> Command {
    let tools: Vec<&Tool> = registry.tools().iter().filter(|t| words(t.spec.name).0 == noun).collect();
    let verbs: Vec<String> = tools.iter().map(|t| words(t.spec.name).1.replace('_', "-")).collect();
    let mut command = Command::new(noun)
        .about(format!("{} {}", capital(noun), verbs.join(", ")))
        .subcommand_required(true)
        .arg_required_else_help(true);
    command = command.visible_aliases(ALIASES.iter().filter(|(n, _)| *n == noun).map(|(_, alias)| *alias));
    for (tool, verb) in tools.into_iter().zip(verbs) {
        command = command.subcommand(tool_command(tool, verb));
    }
    command
}

fn tool_command(tool: &Tool, verb: String) -> Command {
    let mut command = Command::new(verb).about(tool.spec.title).long_about(tool.spec.description);
    for field in positional(tool) {
        command = command.arg(
            Arg::new(id(&field.name)).required(true).value_name(field.name.to_uppercase()).help(format!(
                "{}{}",
                field.description,
                choices(&field.shape)
            )),
        );
    }
    for field in optional(tool) {
        command = command.arg(flag(&field, &tool.input));
    }
    if download::offers(tool) {
        command = command.arg(download::arg());
    }
    if let Some(query) = searched(tool) {
        command = command.arg(
            Arg::new(SEARCHED)
                .value_name("QUERY")
                .conflicts_with(id(&query.name))
                .help(format!("The same as --{}", kebab(&query.name))),
        );
    }
    if let Some(map) = trailing(tool) {
        command = command.arg(
            Arg::new(TRAILING)
                .value_name("KEY=VALUE")
                .action(ArgAction::Append)
                .num_args(0..)
                .help(format!("The same as --{}", kebab(&map.name))),
        );
    }
    command
}

/// Id of the positional arguments that stand for a map.
pub const TRAILING: &str = "key=value";

/// Fields given by their place: those of the path, in its order, then others that must be given.
#[must_use]
pub fn positional(tool: &Tool) -> Vec<Field> {
    let in_path: Vec<&str> = route::path_fields(tool.spec.path).collect();
    let place = |f: &Field| in_path.iter().position(|p| *p == f.name);
    let mut fields: Vec<Field> = schema::fields(&tool.input)
        .into_iter()
        .filter(|f| place(f).is_some() || (f.required && is_scalar(&f.shape)))
        .collect();
    fields.sort_by_key(|f| place(f).unwrap_or(usize::MAX));
    fields
}

/// Fields given by flags.
#[must_use]
pub fn optional(tool: &Tool) -> Vec<Field> {
    let by_place = positional(tool);
    schema::fields(&tool.input).into_iter().filter(|f| by_place.iter().all(|p| p.name != f.name)).collect()
}

/// The field that `KEY=VALUE` arguments without a flag go to: the one that holds what the tool is about, as
/// `variables` does for `variable_set`, or its settings.
#[must_use]
pub fn trailing(tool: &Tool) -> Option<Field> {
    let (noun, _) = words(tool.spec.name);
    let pairs = |f: &Field| matches!(f.shape, Shape::Map(_) | Shape::Json);
    let about = |f: &Field| f.name.strip_suffix('s') == Some(noun) || f.name == "settings";
    schema::fields(&tool.input).into_iter().find(|f| pairs(f) && about(f))
}

/// Id of the positional argument that stands for a query.
pub const SEARCHED: &str = "query";

/// The field that a bare argument of a search goes to.
#[must_use]
pub fn searched(tool: &Tool) -> Option<Field> {
    optional(tool).into_iter().find(|f| f.name == SEARCHED && matches!(f.shape, Shape::Text(_)))
}

fn is_scalar(shape: &Shape) -> bool {
    !matches!(shape, Shape::List(_) | Shape::Map(_) | Shape::Json)
}

fn flag(field: &Field, root: &Value) -> Arg {
    let arg = Arg::new(id(&field.name)).long(kebab(&field.name)).required(field.required);
    let help = |extra: &str| format!("{}{extra}", field.description);
    match &field.shape {
        Shape::Boolean => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("true|false")
            .help(help("")),
        Shape::List(items) => arg
            .action(ArgAction::Append)
            .value_name(items.placeholder())
            .help(help(&format!(" (repeatable){}", choices(items)))),
        Shape::Map(_) => arg
            .action(ArgAction::Append)
            .value_name("KEY=VALUE")
            .help(help(" (repeatable; @FILE reads JSON or KEY=VALUE lines, @- standard input)")),
        Shape::Json => {
            let names =
                schema::nested(root, &field.name).map(|p| p.keys().cloned().collect::<Vec<_>>().join(", "));
            let known =
                names.map(|n| format!(" (repeatable; @FILE reads JSON; keys: {n})")).unwrap_or_default();
            arg.action(ArgAction::Append).value_name("KEY=VALUE").help(help(&known))
        }
        scalar => arg
            .value_name(scalar.placeholder())
            .allow_hyphen_values(matches!(scalar, Shape::Integer | Shape::Number))
            .help(help(&choices(scalar))),
    }
}

fn choices(shape: &Shape) -> String {
    match shape {
        Shape::Text(words) if !words.is_empty() => format!(" [{}]", words.join(", ")),
        _ => String::new(),
    }
}

/// Id of a field's argument; of its own, since a field may be called as a global flag is.
#[must_use]
pub fn id(field: &str) -> String {
    format!("input.{field}")
}

/// `wait_s` → `wait-s`.
#[must_use]
pub fn kebab(name: &str) -> String {
    name.replace('_', "-")
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map(|first| format!("{}s:", first.to_uppercase().chain(letters).collect::<String>()))
        .unwrap_or_default()
}

/// The command line of a tool with what must be given, for the API page.
#[must_use]
pub fn usage(tool: &Tool) -> String {
    let (noun, verb) = words(tool.spec.name);
    let mut text = format!("berth {noun} {}", kebab(verb));
    for field in positional(tool) {
        text = format!("{text} {}", field.name.to_uppercase());
    }
    for field in optional(tool).iter().filter(|f| f.required) {
        text = format!("{text} --{} {}", kebab(&field.name), field.shape.placeholder());
    }
    text
}
