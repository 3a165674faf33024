//! What a change of variables does to what refers to them, found out before it is made.
//!
//! A change is refused where something would have no value that had one before, or that is new. One exception: what all
//! environments or all previews share may refer to what only some of them have; for the others there is a warning.

use std::collections::{BTreeMap, BTreeSet};

use berth_deploy::references::{BuiltIns, Fault, problem_of, resolve};
use berth_schemas::{Code, Problem, Timestamp, VariableName, app::Previews, variable::VariableScope};
use berth_store::{
    StoreError,
    model::{AppRow, NewVariable, VariableRow},
};

use crate::registry::Call;

/// Most variables that one scope may have.
const MOST_VARIABLES: usize = 1000;
/// Environments that are warned of by name.
const MOST_WARNINGS: usize = 10;

/// What is to be changed.
#[derive(Clone, Copy)]
pub(crate) enum Change<'c> {
    /// These are set.
    Set(&'c [NewVariable]),
    /// This one is deleted.
    Delete(&'c VariableName),
}

type Layer = BTreeMap<VariableName, VariableRow>;

/// An environment, as far as variables are concerned.
struct Place {
    title: String,
    given: BuiltIns,
    preview: bool,
    own: Layer,
}

/// Everything that a change may touch.
struct Known {
    shared: Layer,
    previews: Layer,
    places: Vec<Place>,
}

/// Refuses a change that leaves something without a value, and warns of what it leaves so in some environments.
pub(crate) async fn check(
    call: &Call,
    app: &AppRow,
    scope: VariableScope,
    change: Change<'_>,
) -> Result<Vec<String>, Problem> {
    let mut known = match load(call, app, scope).await {
        Ok(known) => known,
        // What cannot be opened is repaired by setting it anew, which must not fail for it.
        Err(StoreError::Unsealable(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let before: Vec<BTreeSet<Fault>> = known.places.iter().map(|place| known.faults(place)).collect();
    known.apply(scope, change)?;
    let mut warnings = Vec::new();
    for (place, before) in known.places.iter().zip(before) {
        let new: Vec<Fault> = known.faults(place).difference(&before).cloned().collect();
        let (some, all): (Vec<Fault>, Vec<Fault>) =
            new.into_iter().partition(|fault| known.only_lacks_elsewhere(scope, change, fault));
        if let Some(problem) = problem_of(&place.title, &all) {
            return Err(refused(problem, change));
        }
        warnings.extend(
            some.iter().map(|fault| format!("In {}: {fault}; a deployment there fails.", place.title)),
        );
    }
    let more = warnings.len().saturating_sub(MOST_WARNINGS);
    warnings.truncate(MOST_WARNINGS);
    if more > 0 {
        warnings.push(format!("And {more} more."));
    }
    Ok(warnings)
}

fn refused(problem: Problem, change: Change<'_>) -> Problem {
    match change {
        Change::Set(_) => Problem { field: Some("variables".into()), ..problem },
        Change::Delete(name) => {
            let detail = format!("{name} is referred to. Without it: {}", problem.detail);
            Problem { code: Code::Conflict, field: Some("name".into()), detail, ..problem }
                .hint("Change or delete what refers to it first; variable_list shows it (refers_to).")
        }
    }
}

async fn load(call: &Call, app: &AppRow, scope: VariableScope) -> Result<Known, StoreError> {
    let store = &call.context.store;
    let of = async |app: &AppRow, scope| -> Result<Layer, StoreError> {
        let rows = store.variables().of(app, scope).await?;
        Ok(rows.into_iter().map(|row| (row.name.clone(), row)).collect())
    };
    let (shared, previews) = (of(app, VariableScope::Shared).await?, of(app, VariableScope::Previews).await?);
    let mut apps = match scope {
        VariableScope::Environment => vec![app.clone()],
        VariableScope::Previews | VariableScope::Shared => store.environments().of(app.id).await?,
    };
    apps.retain(|app| {
        !app.deleting && (scope != VariableScope::Previews || app.environment.preview.is_some())
    });
    let mut places = Vec::with_capacity(apps.len() + 1);
    for app in &apps {
        places.push(Place {
            title: app.title(),
            given: BuiltIns::of(app, &call.context.addresses),
            preview: app.environment.preview.is_some(),
            own: of(app, VariableScope::Environment).await?,
        });
    }
    let comes = match scope {
        VariableScope::Environment => false,
        VariableScope::Previews => true,
        VariableScope::Shared => app.settings.previews.unwrap_or_default() != Previews::Off,
    };
    if comes {
        places.push(Place {
            title: format!("a new preview of {}", app.slug),
            given: BuiltIns::of(app, &call.context.addresses),
            preview: true,
            own: Layer::new(),
        });
    }
    Ok(Known { shared, previews, places })
}

impl Known {
    fn apply(&mut self, scope: VariableScope, change: Change<'_>) -> Result<(), Problem> {
        let layer = match scope {
            VariableScope::Shared => &mut self.shared,
            VariableScope::Previews => &mut self.previews,
            VariableScope::Environment => match self.places.first_mut() {
                Some(place) => &mut place.own,
                None => return Ok(()),
            },
        };
        let set = match change {
            Change::Set(set) => set,
            Change::Delete(name) => {
                layer.remove(name);
                return Ok(());
            }
        };
        for new in set {
            layer.insert(new.name.clone(), row(new, scope));
        }
        if layer.len() > MOST_VARIABLES {
            let detail =
                format!("That would be {} variables; at most {MOST_VARIABLES} are possible.", layer.len());
            return Err(Problem { field: Some("variables".into()), ..Problem::new(Code::TooLarge, detail) }
                .hint("Delete some with variable_delete, or ship many values as a file."));
        }
        Ok(())
    }

    fn faults(&self, place: &Place) -> BTreeSet<Fault> {
        let mut all: BTreeMap<&VariableName, &VariableRow> = self.shared.iter().collect();
        if place.preview {
            all.extend(&self.previews);
        }
        all.extend(&place.own);
        resolve(all.into_values(), &place.given).into_values().filter_map(|r| r.value.err()).collect()
    }

    /// Whether a fault of something shared is none wherever the name that lacks is set.
    fn only_lacks_elsewhere(&self, scope: VariableScope, change: Change<'_>, fault: &Fault) -> bool {
        let (Fault::Unknown { chain }, Change::Set(_)) = (fault, change) else { return false };
        let Some(missing) = chain.last().filter(|_| scope != VariableScope::Environment) else {
            return false;
        };
        let layers = [&self.shared, &self.previews].into_iter().chain(self.places.iter().map(|p| &p.own));
        layers.into_iter().any(|layer| layer.contains_key(missing))
    }
}

fn row(new: &NewVariable, scope: VariableScope) -> VariableRow {
    VariableRow {
        name: new.name.clone(),
        value: new.value.clone(),
        scope,
        secret: new.secret,
        build: new.build,
        refers: new.refers,
        version: 0,
        updated_at: Timestamp(0),
        updated_by: String::new(),
    }
}
