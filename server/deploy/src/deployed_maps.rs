//! Source maps that a release of plain files brings: kept for reading errors, and taken from where visitors see them.

use std::path::PathBuf;

use berth_observe::errors::maps::{
    Maps,
    found::{self, FoundMap},
};
use berth_schemas::{deployment::BuildLineKind, issue::ErrorRules};

use crate::{
    attempt::{Attempt, io_problem},
    errors::error_release,
    fault::Halt,
    journal::Journal,
    limits,
    pipeline::Inner,
};

/// Damaged maps that a deployment's log names.
const NAMED: usize = 5;

/// Names the files in a deployment's log whose maps are damaged.
pub(crate) async fn name_damaged(journal: &Journal, files: &[String]) {
    for file in files.iter().take(NAMED) {
        let line = format!("the source map of {file} cannot be used");
        journal.line(BuildLineKind::Warning, None, line).await;
    }
}

impl Inner {
    /// Takes the maps of the release that lies in `folder`. A map that cannot be used stops no deployment; it is named in
    /// the log, and stays where it was.
    pub(crate) async fn take_maps(&self, attempt: &mut Attempt, folder: PathBuf) -> Result<(), Halt> {
        let Some(maps) = self.config.maps.clone() else { return Ok(()) };
        let found = self
            .blocking(attempt, "looking for source maps", limits::FILES, move |_| found::beside(&folder))
            .await?
            .map_err(|e| io_problem("looking for source maps", &e))?;
        if found.is_empty() {
            return Ok(());
        }
        let rules: ErrorRules = self.store.errors().settings(attempt.app.id).await?.unwrap_or_default();
        let release = error_release(&attempt.row.reference(), attempt.row.commit.as_deref());
        let (mut kept, mut damaged) = (0, Vec::new());
        for map in found {
            let url = map.url.clone();
            if self.take_map(&maps, attempt, &release, map, rules.public_maps).await? {
                kept += 1;
            } else {
                damaged.push(url);
            }
        }
        let whose = if rules.public_maps { "served, too" } else { "kept for reading errors and not served" };
        attempt.journal.note(format!("{kept} source maps are {whose}")).await;
        name_damaged(&attempt.journal, &damaged).await;
        Ok(())
    }

    /// Keeps one map, and removes it from the release unless everybody may see it. Returns whether it could be used.
    async fn take_map(
        &self,
        maps: &Maps,
        attempt: &Attempt,
        release: &str,
        found: FoundMap,
        public: bool,
    ) -> Result<bool, Halt> {
        let problem = |e: &std::io::Error| Halt::from(io_problem("reading a source map", e));
        let file = found.map.clone();
        let read =
            self.blocking(attempt, "reading a source map", limits::FILES, move |_| found.read()).await?;
        let Some(pair) = read.map_err(|e| problem(&e))? else { return Ok(false) };
        if let Err(error) = maps.add_deployed(attempt.app.id, release, pair, Vec::new()).await {
            tracing::warn!(%error, app = %attempt.app.slug, "a source map of a release cannot be used");
            return Ok(false);
        }
        if !public {
            match tokio::fs::remove_file(&file).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(problem(&error)),
                _ => {}
            }
        }
        Ok(true)
    }
}
