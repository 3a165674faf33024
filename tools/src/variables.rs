//! Environment variables and secrets.

use std::collections::BTreeMap;

use berth_deploy::references::{LONGEST_VALUE, Resolved, Template};
use berth_schemas::{
    Code, Problem, Scope, VariableName,
    variable::{
        Variable, VariableChange, VariableChanges, VariableDelete, VariableExport, VariableHistory,
        VariableImport, VariableList, VariablePage, VariableRestore, VariableReveal, VariableRevealed,
        VariableScope, VariableSet, VariablesChanged, VariablesExported, VariablesImported,
    },
};
use berth_store::model::{AppRow, NewEvent, NewVariable, VariableRow};

use crate::{
    apps, dotenv, find, page,
    references::{self, Change},
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

/// What stands in place of a secret's value.
const MASK: &str = "••••••";
/// Longest `.env` text in bytes.
const MOST_TEXT: usize = 256 * 1024;
/// Most variables that one call sets.
const MOST_AT_ONCE: usize = 200;

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec {
                name: "variable_list",
                title: "List an app's variables",
                description: "List the environment variables of an app, secrets masked. resolved=true replaces references.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Core,
                method: Method::Get,
                path: "/v1/apps/{app}/variables",
            },
            list,
        ),
        Tool::new(
            Spec {
                name: "variable_set",
                title: "Set variables and secrets",
                description: "Set environment variables of an app; others stay. Put passwords, keys and URLs with credentials into secrets. They apply with the next deployment, or now with redeploy=true.",
                hints: Hints::UPDATE,
                scope: Scope::Write,
                tier: Tier::Core,
                method: Method::Put,
                path: "/v1/apps/{app}/variables",
            },
            set,
        ),
        Tool::new(
            Spec {
                name: "variable_delete",
                title: "Delete a variable",
                description: "Delete an environment variable or secret of an app, from the next deployment on, or now with redeploy=true. Kept releases keep their copy for rollback.",
                hints: Hints::DESTROY,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Delete,
                path: "/v1/apps/{app}/variables/{name}",
            },
            delete,
        ),
        Tool::new(
            Spec {
                name: "variable_reveal",
                title: "Reveal a secret",
                description: "Return the value of one variable in clear, also of a secret, as it was set and with its references replaced. Needs the scope secrets; each call is written to the event log. Use only when the person asks for the value itself.",
                hints: Hints::READ,
                scope: Scope::Secrets,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/apps/{app}/variables/{name}/value",
            },
            reveal,
        ),
        Tool::new(
            Spec {
                name: "variable_history",
                title: "Show how variables changed",
                description: "List the changes of an app's variables, newest first: name, version, when, by whom. Values are never shown; variable_restore brings one back.",
                hints: Hints::READ,
                scope: Scope::Read,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/apps/{app}/variable-history",
            },
            history,
        ),
        Tool::new(
            Spec {
                name: "variable_restore",
                title: "Restore a variable's earlier value",
                description: "Set a variable or secret of an app back to the value it had in an earlier version, as variable_history lists them. It becomes a new version.",
                hints: Hints::UPDATE,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/apps/{app}/variables/{name}/restore",
            },
            restore,
        ),
        Tool::new(
            Spec {
                name: "variable_import",
                title: "Import a .env file",
                description: "Set variables of an app from the text of a .env file (quotes, several lines, comments, export); others stay. ${NAME} outside single quotes refers to another variable. They are kept as secrets unless plain=true. Call with dry_run=true first to see which names change.",
                hints: Hints::UPDATE,
                scope: Scope::Write,
                tier: Tier::Extended,
                method: Method::Post,
                path: "/v1/apps/{app}/variables/import",
            },
            import,
        ),
        Tool::new(
            Spec {
                name: "variable_export",
                title: "Export variables as a .env file",
                description: "Return all variables that count in an environment of an app as the text of a .env file, secrets in clear, references kept. Needs the scope secrets; each call is written to the event log.",
                hints: Hints::READ,
                scope: Scope::Secrets,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/apps/{app}/variables/export",
            },
            export,
        ),
    ]
}

async fn history(call: Call, input: VariableHistory) -> Result<VariableChanges, Problem> {
    let limit = page::limit(input.limit, 50, 200)?;
    let app = find::app_in(&call, &input.app, input.environment.as_ref()).await?;
    let skip = page::number_cursor(input.cursor.as_deref())?.unwrap_or(0);
    let rows = call.context.store.variables().history(&app, input.scope, input.name.as_ref()).await?;
    let rows = rows.into_iter().skip(usize::try_from(skip).unwrap_or(usize::MAX));
    let changes = rows.map(|v| VariableChange {
        name: v.name,
        version: v.version,
        deleted: v.deleted,
        secret: v.secret,
        at: v.at,
        by: v.by,
    });
    let mut changes: Vec<_> = changes.collect();
    let more = page::cut_whole(&mut changes, limit, call.budget, input.limit.is_some());
    let next_cursor = more.then(|| page::skipped(skip, changes.len()));
    Ok(VariableChanges { changes, next_cursor })
}

async fn restore(call: Call, input: VariableRestore) -> Result<VariablesChanged, Problem> {
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    let variables = call.context.store.variables();
    let Some(then) = variables.version(&app, input.scope, &input.name, input.version).await? else {
        let detail = format!("{} has no value in version {}.", input.name, input.version);
        return Err(Problem { field: Some("version".into()), ..Problem::new(Code::NotFound, detail) }
            .hint("variable_history lists the versions; one that is a deletion has no value."));
    };
    let set = vec![then];
    let warnings = references::check(&call, &app, input.scope, Change::Set(&set)).await?;
    let changed = variables.put(&call.principal, &app, input.scope, set).await?;
    applied(&call, &app, changed, warnings, input.redeploy).await
}

async fn import(call: Call, input: VariableImport) -> Result<VariablesImported, Problem> {
    if input.text.len() > MOST_TEXT {
        let detail = format!("text has {} bytes; at most {MOST_TEXT} are possible.", input.text.len());
        return Err(Problem::invalid("text", detail));
    }
    let read = dotenv::parse(&input.text).map_err(|bad| {
        Problem::invalid("text", format!("text, {bad}.")).hint("Correct that line; nothing was set.")
    })?;
    let (mut variables, mut secrets) = (BTreeMap::new(), BTreeMap::new());
    let into = if input.plain { &mut variables } else { &mut secrets };
    into.extend(read.clone());
    let wish = VariableSet {
        app: input.app.clone(),
        environment: input.environment.clone(),
        scope: input.scope,
        variables,
        secrets,
        build: input.build,
        redeploy: false,
    };
    check(&wish)?;
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    let store = call.context.store.variables();
    let all: Vec<NewVariable> = read
        .into_iter()
        .map(|(name, value)| NewVariable::new(name, value, !input.plain, input.build))
        .collect();
    let warnings = references::check(&call, &app, input.scope, Change::Set(&all)).await?;
    let known = store.of(&app, input.scope).await?;
    let (mut added, mut changed, mut unchanged) = (Vec::new(), Vec::new(), 0);
    for new in &all {
        match known.iter().find(|k| k.name == new.name) {
            None => added.push(new.name.clone()),
            Some(known) if new.is(known) => unchanged += 1,
            Some(_) => changed.push(new.name.clone()),
        }
    }
    if !input.dry_run {
        store.put(&call.principal, &app, input.scope, all).await?;
    }
    Ok(VariablesImported { added, changed, unchanged, warnings, done: !input.dry_run })
}

async fn export(call: Call, input: VariableExport) -> Result<VariablesExported, Problem> {
    let app = find::app_in(&call, &input.app, input.environment.as_ref()).await?;
    let rows = call.context.store.variables().effective(&app).await?;
    let names: Vec<&str> = rows.iter().map(|v| v.name.as_str()).collect();
    let event = NewEvent {
        kind: "variable.exported",
        by: call.principal.name.clone(),
        app: Some(app.id),
        summary: format!("{} exported the variables of {}", call.principal.name, app.title()),
        data: serde_json::json!({ "variables": names, "environment": app.environment.name }),
    };
    call.context.store.events().append(event).await?;
    Ok(VariablesExported { text: dotenv::write(rows.iter().map(|v| (&v.name, template(v)))) })
}

/// A value with its references told apart. One that cannot be read stands for itself.
fn template(row: &VariableRow) -> Template {
    let read = row.refers.then(|| Template::parse(&row.value).ok()).flatten();
    read.unwrap_or_else(|| Template::literal(&row.value))
}

async fn list(call: Call, input: VariableList) -> Result<VariablePage, Problem> {
    let app = find::app_in(&call, &input.app, input.environment.as_ref()).await?;
    let limit = page::limit_of_whole(input.limit)?;
    let after: Option<VariableName> = page::name_cursor(input.cursor.as_deref())?;
    let rows = call.context.pipeline.variables(&app).await?;
    let live = apps::live(&call, &app).await?;
    let rows = rows.into_iter().filter(|(row, _)| after.as_ref().is_none_or(|a| row.name > *a));
    let mut variables: Vec<_> = rows.map(|(row, found)| shown(&app, row, found, input.resolved)).collect();
    let more = page::cut_whole(&mut variables, limit, call.budget, input.limit.is_some());
    let next_cursor = variables.last().filter(|_| more).map(|v| v.name.to_string());
    let changes_pending = apps::changes_pending(&app, live.as_ref());
    Ok(VariablePage { variables, changes_pending, next_cursor })
}

/// A variable as it is shown. What is set as plain is shown as it was set; what becomes of it only if it leads to no
/// secret.
fn shown(app: &AppRow, row: VariableRow, found: Resolved, resolved: bool) -> Variable {
    let value = found.value.as_ref().ok();
    Variable {
        resolved: value.filter(|_| resolved).map(|v| if found.secret { MASK.into() } else { v.clone() }),
        // What a secret refers to is a part of its value.
        refers_to: if row.secret { Vec::new() } else { found.refers_to },
        refers_to_secret: found.secret && !row.secret,
        as_it_stands: !row.refers && !row.secret && row.value.contains("${"),
        withheld: found.secret && app.environment.is_foreign(),
        problem: found.value.err().map(|fault| format!("{fault}.")),
        name: row.name,
        value: if row.secret { MASK.into() } else { row.value },
        secret: row.secret,
        scope: row.scope,
        build: row.build,
        updated_at: row.updated_at,
        updated_by: row.updated_by,
    }
}

async fn set(call: Call, input: VariableSet) -> Result<VariablesChanged, Problem> {
    check(&input)?;
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    let of = |map: BTreeMap<VariableName, String>, secret| {
        map.into_iter().map(move |(name, value)| NewVariable::new(name, value, secret, input.build))
    };
    let all: Vec<_> = of(input.variables, false).chain(of(input.secrets, true)).collect();
    let warnings = references::check(&call, &app, input.scope, Change::Set(&all)).await?;
    let changed = call.context.store.variables().put(&call.principal, &app, input.scope, all).await?;
    applied(&call, &app, changed, warnings, input.redeploy).await
}

/// Checks names and sizes. Errors never repeat a value: it may be a secret.
fn check(input: &VariableSet) -> Result<(), Problem> {
    let count = input.variables.len() + input.secrets.len();
    if count == 0 {
        return Err(Problem::invalid("variables", "Neither variables nor secrets name anything to set.")
            .hint("Pass variables={NAME: value} or secrets={NAME: value}."));
    }
    if count > MOST_AT_ONCE {
        return Err(Problem::invalid(
            "variables",
            format!("{count} variables; at most {MOST_AT_ONCE} can be set in one call."),
        ));
    }
    for (field, map) in [("variables", &input.variables), ("secrets", &input.secrets)] {
        for (name, value) in map {
            let field = format!("{field}.{name}");
            if value.len() > LONGEST_VALUE {
                return Err(Problem::invalid(
                    &field,
                    format!("{field} has {} bytes; at most {LONGEST_VALUE} are possible.", value.len()),
                ));
            }
            if value.contains('\0') {
                return Err(Problem::invalid(
                    &field,
                    format!("{field} holds a NUL character, which no environment can."),
                ));
            }
            if let Err(bad) = Template::parse(value) {
                return Err(Problem::invalid(&field, format!("{field} is no value: {bad}.")).hint(
                    "${NAME} refers to another variable; write $${ where the characters ${ are meant.",
                ));
            }
            if name.as_str() == "PORT" {
                return Err(Problem::invalid(&field, "PORT is given to the app by Berth.")
                    .hint("Set the port with app_update(settings={port: …})."));
            }
        }
    }
    match input.secrets.keys().find(|name| input.variables.contains_key(*name)) {
        Some(both) => {
            Err(Problem::invalid("secrets", format!("{both} is both in variables and in secrets.")))
        }
        None => Ok(()),
    }
}

/// Redeploys if that was asked for, and says how the change takes effect.
async fn applied(
    call: &Call,
    app: &AppRow,
    changed: Vec<VariableName>,
    warnings: Vec<String>,
    redeploy: bool,
) -> Result<VariablesChanged, Problem> {
    let name = app.slug.as_str();
    let nothing_runs = app.environment.live.is_none() || app.environment.stopped;
    if redeploy && !nothing_runs {
        // The row is read again: its settings and times may have moved with the change.
        let app = find::app_in_to_change(call, &app.slug, Some(&app.environment.name)).await?;
        let row = apps::redeploy(call, &app, "variables changed").await?.into_row();
        let which = row.reference();
        let applies =
            format!("With {which}, which is under way: deployment_get(deployment=\"{which}\", wait_s=50).");
        return Ok(VariablesChanged { changed, applies, warnings, deployment: Some(which) });
    }
    if changed.is_empty() {
        let applies = "Nothing changed: they had these values already.".into();
        return Ok(VariablesChanged { changed, applies, warnings, deployment: None });
    }
    let applies = match (app.environment.live, app.environment.stopped) {
        (None, _) => "With the first deployment.".into(),
        (_, true) => format!("With the next deployment; {name} is stopped, so nothing was redeployed."),
        _ => format!("With the next deployment, or now with app_restart(app={name:?})."),
    };
    Ok(VariablesChanged { changed, applies, warnings, deployment: None })
}

async fn delete(call: Call, input: VariableDelete) -> Result<VariablesChanged, Problem> {
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    let variables = call.context.store.variables();
    pick(variables.of(&app, input.scope).await?, &input.name)?;
    references::check(&call, &app, input.scope, Change::Delete(&input.name)).await?;
    variables.delete(&call.principal, &app, input.scope, &input.name).await?;
    applied(&call, &app, vec![input.name], Vec::new(), input.redeploy).await
}

async fn reveal(call: Call, input: VariableReveal) -> Result<VariableRevealed, Problem> {
    let app = find::app_in(&call, &input.app, input.environment.as_ref()).await?;
    let row = pick(call.context.store.variables().effective(&app).await?, &input.name)?;
    // Who looks at a secret leaves a trace; without the trace there is no look.
    let event = NewEvent {
        kind: "variable.revealed",
        by: call.principal.name.clone(),
        app: Some(app.id),
        summary: format!("{} revealed {} of {}", call.principal.name, row.name, app.title()),
        data: serde_json::json!({
            "variable": row.name, "secret": row.secret, "environment": app.environment.name,
        }),
    };
    call.context.store.events().append(event).await?;
    let found = call.context.pipeline.variables(&app).await?;
    let found = found.into_iter().find(|(other, _)| other.name == row.name && row.refers);
    let resolved = found.and_then(|(_, found)| found.value.ok());
    Ok(VariableRevealed { name: row.name, value: row.value, resolved })
}

/// The variable of this name.
fn pick(mut rows: Vec<VariableRow>, name: &VariableName) -> Result<VariableRow, Problem> {
    match rows.iter().position(|v| v.name == *name) {
        Some(at) => Ok(rows.swap_remove(at)),
        None => {
            let known: Vec<String> = rows.iter().map(|v| v.name.to_string()).collect();
            let problem = Problem::not_found("variable", name.as_str(), &known);
            Err(Problem { field: Some("name".into()), code: Code::NotFound, ..problem })
        }
    }
}

impl Brief for VariablePage {
    fn brief(&self) -> Text {
        if self.variables.is_empty() {
            return "No variables are set.".into();
        }
        let mut text = Text::from(apps::count(self.variables.len(), "variable")).say(":");
        for v in &self.variables {
            let mut build = if v.build { " (also for builds)" } else { "" }.to_owned();
            if v.scope != VariableScope::Environment {
                build.push_str(&format!(" ({})", v.scope.as_str()));
            }
            let resolved = v.resolved.iter().filter(|r| **r != v.value).map(|r| format!(" → {r}"));
            text = text.say(format!("\n{}={}{}{build}", v.name, v.value, resolved.collect::<String>()));
            text = text.say_if(v.withheld.then_some(" (withheld: a fork's preview)"));
            text = text.say_if(v.problem.as_ref().map(|why| format!(" (no value: {why})")));
        }
        if self.changes_pending {
            text = text.say("\nThe live release runs with older values; app_restart applies these.");
        }
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}

impl Brief for VariablesChanged {
    fn brief(&self) -> Text {
        if self.changed.is_empty() && self.deployment.is_none() {
            return self.applies.clone().into();
        }
        let names: Vec<&str> = self.changed.iter().map(VariableName::as_str).collect();
        let warned: String = self.warnings.iter().map(|w| format!("\n{w}")).collect();
        format!("Changed {}. Applies: {}{warned}", names.join(", "), self.applies).into()
    }
}

impl Brief for VariableChanges {
    fn brief(&self) -> Text {
        if self.changes.is_empty() {
            return "No variable was changed there.".into();
        }
        let mut text = Text::from(apps::count(self.changes.len(), "change")).say(":");
        for c in &self.changes {
            let what = if c.deleted { "deleted" } else { "set" };
            text = text.say(format!("\n{} version {} {what} {} by {}", c.name, c.version, c.at, c.by));
        }
        text.say_if(page::more(self.next_cursor.as_ref()))
    }
}

impl Brief for VariablesImported {
    fn brief(&self) -> Text {
        let names = |list: &[VariableName]| {
            let names: Vec<&str> = list.iter().map(VariableName::as_str).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        let did = if self.done { "Imported" } else { "Dry run" };
        let warned: String = self.warnings.iter().map(|w| format!("\n{w}")).collect();
        format!(
            "{did}. New: {}. Changed: {}. As before: {}.{warned}",
            names(&self.added),
            names(&self.changed),
            self.unchanged
        )
        .into()
    }
}

impl Brief for VariablesExported {
    fn brief(&self) -> Text {
        // The values are in the output only, so that a client which logs texts does not keep them.
        format!("{} are in the field text.", apps::count(self.text.lines().count(), "variable")).into()
    }
}

impl Brief for VariableRevealed {
    fn brief(&self) -> Text {
        // The value is in the output only, so that a client which logs texts does not keep it.
        format!("{} is revealed in the field value.", self.name).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_refused_value_is_not_repeated() {
        let wrong = [
            json!({"app": "web"}),
            json!({"app": "web", "secrets": {"A": "sesame\0"}}),
            json!({"app": "web", "secrets": {"PORT": "sesame"}}),
            json!({"app": "web", "secrets": {"A": "sesame"}, "variables": {"A": "sesame"}}),
            json!({"app": "web", "variables": {"A": "sesame".repeat(20_000)}}),
            json!({"app": "web", "secrets": {"A": "sesame${"}}),
            json!({"app": "web", "variables": {"A": "${sesame:-x}"}}),
        ];
        for value in wrong {
            let problem = check(&serde_json::from_value(value).unwrap()).unwrap_err();
            assert!(!problem.to_string().contains("sesame"), "{problem}");
            assert!(problem.field.is_some());
        }
    }
}
