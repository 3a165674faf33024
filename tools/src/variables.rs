//! Environment variables and secrets.

use std::collections::BTreeMap;

use berth_schemas::{
    Code, Problem, Scope, VariableName,
    variable::{
        Variable, VariableDelete, VariableList, VariablePage, VariableReveal, VariableRevealed, VariableSet,
        VariablesChanged,
    },
};
use berth_store::model::{AppRow, NewEvent, VariableRow};

use crate::{
    apps, find,
    registry::{Brief, Call, Hints, Method, Spec, Tier, Tool},
    text::Text,
};

/// What stands in place of a secret's value.
const MASK: &str = "••••••";
/// Longest value in bytes.
const LONGEST_VALUE: usize = 64 * 1024;
/// Most variables that one call sets.
const MOST_AT_ONCE: usize = 200;

pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::new(
            Spec {
                name: "variable_list",
                title: "List an app's variables",
                description: "List the environment variables of an app; the values of secrets are masked.",
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
                description: "Return the value of one variable in clear, also of a secret. Needs the scope secrets; each call is written to the event log. Use only when the person asks for the value itself.",
                hints: Hints::READ,
                scope: Scope::Secrets,
                tier: Tier::Extended,
                method: Method::Get,
                path: "/v1/apps/{app}/variables/{name}/value",
            },
            reveal,
        ),
    ]
}

async fn list(call: Call, input: VariableList) -> Result<VariablePage, Problem> {
    let app = find::app_in(&call, &input.app, input.environment.as_ref()).await?;
    let rows = call.context.store.variables().list(app.environment.id).await?;
    let live = apps::live(&call, &app).await?;
    Ok(VariablePage {
        variables: rows.into_iter().map(shown).collect(),
        changes_pending: apps::changes_pending(&app, live.as_ref()),
    })
}

fn shown(row: VariableRow) -> Variable {
    Variable {
        name: row.name,
        value: if row.secret { MASK.into() } else { row.value },
        secret: row.secret,
        build: row.build,
        updated_at: row.updated_at,
        updated_by: row.updated_by,
    }
}

async fn set(call: Call, input: VariableSet) -> Result<VariablesChanged, Problem> {
    check(&input)?;
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    let of = |map: BTreeMap<VariableName, String>, secret| {
        map.into_iter().map(move |(name, value)| (name, value, secret, input.build))
    };
    let all: Vec<_> = of(input.variables, false).chain(of(input.secrets, true)).collect();
    let changed = call.context.store.variables().set(&call.principal, &app, all).await?;
    applied(&call, &app, changed, input.redeploy).await
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
        return Ok(VariablesChanged { changed, applies, deployment: Some(which) });
    }
    if changed.is_empty() {
        let applies = "Nothing changed: they had these values already.".into();
        return Ok(VariablesChanged { changed, applies, deployment: None });
    }
    let applies = match (app.environment.live, app.environment.stopped) {
        (None, _) => "With the first deployment.".into(),
        (_, true) => format!("With the next deployment; {name} is stopped, so nothing was redeployed."),
        _ => format!("With the next deployment, or now with app_restart(app={name:?})."),
    };
    Ok(VariablesChanged { changed, applies, deployment: None })
}

async fn delete(call: Call, input: VariableDelete) -> Result<VariablesChanged, Problem> {
    let app = find::app_in_to_change(&call, &input.app, input.environment.as_ref()).await?;
    existing(&call, &app, &input.name).await?;
    call.context.store.variables().delete(&call.principal, &app, &input.name).await?;
    applied(&call, &app, vec![input.name], input.redeploy).await
}

async fn reveal(call: Call, input: VariableReveal) -> Result<VariableRevealed, Problem> {
    let app = find::app_in(&call, &input.app, input.environment.as_ref()).await?;
    let row = existing(&call, &app, &input.name).await?;
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
    Ok(VariableRevealed { name: row.name, value: row.value })
}

async fn existing(call: &Call, app: &AppRow, name: &VariableName) -> Result<VariableRow, Problem> {
    let mut rows = call.context.store.variables().list(app.environment.id).await?;
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
            let build = if v.build { " (also for builds)" } else { "" };
            text = text.say(format!("\n{}={}{build}", v.name, v.value));
        }
        if self.changes_pending {
            text = text.say("\nThe live release runs with older values; app_restart applies these.");
        }
        text
    }
}

impl Brief for VariablesChanged {
    fn brief(&self) -> Text {
        if self.changed.is_empty() && self.deployment.is_none() {
            return self.applies.clone().into();
        }
        let names: Vec<&str> = self.changed.iter().map(VariableName::as_str).collect();
        format!("Changed {}. Applies: {}", names.join(", "), self.applies).into()
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
        ];
        for value in wrong {
            let problem = check(&serde_json::from_value(value).unwrap()).unwrap_err();
            assert!(!problem.to_string().contains("sesame"), "{problem}");
            assert!(problem.field.is_some());
        }
    }
}
