//! What the processes and builds of an app get of its variables.

use berth_schemas::{Code, Problem, VariableName};
use berth_store::model::{AppRow, DeploymentRow, DeploymentSource, Snapshot, SnapshotVariable, VariableRow};

use crate::{
    Pipeline,
    attempt::Attempt,
    fault::Halt,
    pipeline::Inner,
    references::{BuiltIns, Fault, Resolved, branch_of, problem_of, resolve},
};

/// Bytes that all variables of a process may have together; the kernel takes no more than about twice of it.
const MOST_BYTES: usize = 1024 * 1024;

impl Pipeline {
    /// The variables that count in an app's environment, each with what becomes of it there. Secrets, and what refers to
    /// one, are among them, although a fork's preview does not get them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn variables(&self, app: &AppRow) -> Result<Vec<(VariableRow, Resolved)>, Problem> {
        self.0.all_resolved(app, &BuiltIns::of(app, &self.0.config.addresses)).await
    }
}

impl Inner {
    async fn all_resolved(
        &self,
        app: &AppRow,
        given: &BuiltIns,
    ) -> Result<Vec<(VariableRow, Resolved)>, Problem> {
        let rows = self.store.variables().effective(app).await?;
        let mut resolved = resolve(&rows, given);
        let with = |row: VariableRow| resolved.remove(&row.name).map(|resolved| (row, resolved));
        Ok(rows.into_iter().filter_map(with).collect())
    }

    /// The variables that an app's environment gets: of a fork's preview neither secrets nor what refers to one.
    async fn resolved(
        &self,
        app: &AppRow,
        given: &BuiltIns,
    ) -> Result<Vec<(VariableRow, Resolved)>, Problem> {
        let mut all = self.all_resolved(app, given).await?;
        all.retain(|(_, resolved)| !(resolved.secret && app.environment.is_foreign()));
        Ok(all)
    }

    /// The same for a deployment, of which those of Berth's own are known now.
    async fn resolved_for(
        &self,
        attempt: &Attempt,
        branch: Option<&str>,
    ) -> Result<Vec<(VariableRow, Resolved)>, Problem> {
        // The commit is noted while the source is fetched.
        let row = self.deployment(attempt.row.id).await?;
        self.resolved(&attempt.app, &self.built_ins(&attempt.app, &row, branch)).await
    }

    fn built_ins(&self, app: &AppRow, row: &DeploymentRow, branch: Option<&str>) -> BuiltIns {
        BuiltIns::of(app, &self.config.addresses).deployed(&row.reference(), row.commit.as_deref(), branch)
    }

    /// What a deployment's build gets, as secrets, each with a stamp that changes with what it is made of.
    pub(crate) async fn build_variables(&self, attempt: &Attempt) -> Result<Vec<BuildVariable>, Halt> {
        let mut rows = self.resolved_for(attempt, branch_of(&attempt.row.source)).await?;
        rows.retain(|(row, _)| row.build);
        refuse_faults(&attempt.app, &rows)?;
        let variable = |(row, resolved): (VariableRow, Resolved)| {
            let value = resolved.value.ok()?;
            Some(BuildVariable { name: row.name, value, stamp: resolved.stamp })
        };
        Ok(rows.into_iter().filter_map(variable).collect())
    }

    /// What a release of this moment runs with.
    pub(crate) async fn snapshot(&self, attempt: &Attempt, branch: Option<String>) -> Result<Snapshot, Halt> {
        let rows = self.resolved_for(attempt, branch.as_deref()).await?;
        refuse_faults(&attempt.app, &rows)?;
        let variable = |(row, resolved): (VariableRow, Resolved)| {
            let (name, value) = (row.name, resolved.value.ok()?);
            let (scope, version) = (row.scope, row.version);
            Some(SnapshotVariable { name, value, secret: resolved.secret, scope, version })
        };
        let variables = rows.into_iter().filter_map(variable).collect();
        Ok(Snapshot { branch, dsn: self.dsn_for(attempt).await?, variables })
    }

    /// Refuses a wish to deploy that would fail for its variables.
    pub(crate) async fn check_variables(
        &self,
        app: &AppRow,
        source: &DeploymentSource,
    ) -> Result<(), Problem> {
        let rows = self.resolved(app, &BuiltIns::of(app, &self.config.addresses)).await?;
        if !matches!(source, DeploymentSource::Rollback { .. }) {
            refuse_faults(app, &rows)?;
        }
        let Some(required) = app.settings.required_variables.as_ref().filter(|r| !r.is_empty()) else {
            return Ok(());
        };
        let is_set = |name: &String| rows.iter().any(|(row, _)| row.name.as_str() == name.as_str());
        let missing: Vec<String> = required.iter().filter(|name| !is_set(name)).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Problem::new(
            Code::MissingVariable,
            format!("{} needs variables that are not set: {}.", app.title(), missing.join(", ")),
        )
        .hint("Set them with variable_set, then deploy again.")
        .candidates(missing))
    }
}

/// A variable as a build gets it.
pub(crate) struct BuildVariable {
    pub(crate) name: VariableName,
    pub(crate) value: String,
    pub(crate) stamp: String,
}

/// Fails when a variable has no value, or all together are too long.
fn refuse_faults(app: &AppRow, rows: &[(VariableRow, Resolved)]) -> Result<(), Problem> {
    let faults: Vec<Fault> = rows.iter().filter_map(|(_, r)| r.value.as_ref().err().cloned()).collect();
    if let Some(problem) = problem_of(&app.title(), &faults) {
        return Err(problem);
    }
    let bytes: usize = rows
        .iter()
        .map(|(row, r)| row.name.as_str().len() + r.value.as_ref().map_or(0, String::len) + 2)
        .sum();
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    let detail = format!(
        "The variables of {} have {bytes} bytes together, with what they refer to; at most {MOST_BYTES} are possible.",
        app.title()
    );
    Err(Problem::new(Code::TooLarge, detail).hint("Shorten some, or ship long ones as files."))
}
