//! What visitors of one environment get.

use std::{sync::Arc, time::Duration};

use berth_proxy::{Destination, Hold, Match, ReleaseTarget, Split, SplitRule, StatusPage};
use berth_schemas::traffic::{RolloutRule, TrafficMatch, TrafficMode};
use berth_store::model::{AppRow, ReleaseId};

use super::HELD;

/// What an environment shows to visitors.
#[derive(Clone)]
pub(super) enum Serving {
    /// Nothing was deployed yet.
    Nothing,
    /// It is stopped by request.
    Stopped,
    /// Nobody used it: its visitors wait until it is awake.
    Asleep(ReleaseId, Arc<Hold>),
    /// Its containers are being brought up.
    Starting(ReleaseId),
    /// A release in containers.
    Release(ReleaseId, Arc<ReleaseTarget>),
    /// A release of files.
    Files(ReleaseId, Arc<ReleaseTarget>),
}

/// An environment as the data plane is told of it.
pub(super) struct Entry {
    /// What visitors are told it is called.
    pub(super) app: String,
    pub(super) places: Vec<(String, String)>,
    pub(super) serving: Serving,
    /// What stands between visitors and the release, whichever serves.
    pub(super) mode: Mode,
    /// A release that gets a part of the traffic.
    pub(super) trial: Option<Trial>,
}

/// A traffic mode as the data plane knows it.
pub(super) enum Mode {
    Open,
    Paused(Arc<Hold>),
    Maintenance(StatusPage),
}

/// A release on trial beside the one that serves.
#[derive(Clone)]
pub(crate) struct Trial {
    pub(crate) release: ReleaseId,
    pub(crate) target: Arc<ReleaseTarget>,
    pub(crate) rule: RolloutRule,
}

impl Serving {
    /// Lets those go who wait. After the table that leads elsewhere was set.
    pub(super) fn end(&self) {
        if let Self::Asleep(_, hold) = self {
            hold.release();
        }
    }
}

impl Mode {
    pub(super) fn of(app: &AppRow) -> Self {
        let name = app.title();
        match &app.environment.traffic {
            TrafficMode::Open => Self::Open,
            TrafficMode::Paused { hold_s, .. } => {
                Self::Paused(Hold::new(name, Duration::from_secs(u64::from(*hold_s)), HELD))
            }
            TrafficMode::Maintenance { message, retry_after_s, .. } => {
                Self::Maintenance(StatusPage::Maintenance {
                    app: name,
                    message: message.clone(),
                    retry_after_s: *retry_after_s,
                })
            }
        }
    }

    /// Lets those go who wait. After the table that leads elsewhere was set.
    pub(super) fn end(&self) {
        if let Self::Paused(hold) = self {
            hold.release();
        }
    }
}

impl Entry {
    pub(super) fn target(&self) -> Option<Arc<ReleaseTarget>> {
        match &self.serving {
            Serving::Release(_, target) | Serving::Files(_, target) => Some(Arc::clone(target)),
            _ => None,
        }
    }

    pub(super) fn destination(&self) -> Destination {
        let app = self.app.clone();
        match (&self.serving, &self.mode) {
            (Serving::Stopped | Serving::Nothing, _) | (_, Mode::Open) => {}
            (_, Mode::Paused(hold)) => return Destination::Hold(Arc::clone(hold)),
            (_, Mode::Maintenance(page)) => return Destination::Page(page.clone()),
        }
        match &self.serving {
            Serving::Release(id, target) | Serving::Files(id, target) => match &self.trial {
                Some(trial) if trial.release != *id => Destination::Split(Arc::new(Split {
                    main: Arc::clone(target),
                    trial: Arc::clone(&trial.target),
                    rule: split_rule(&trial.rule),
                })),
                _ => Destination::Release(Arc::clone(target)),
            },
            Serving::Asleep(_, hold) => Destination::Hold(Arc::clone(hold)),
            Serving::Starting(_) => Destination::Page(StatusPage::Starting { app }),
            Serving::Stopped => Destination::Page(StatusPage::Stopped { app }),
            Serving::Nothing => Destination::Page(StatusPage::NotDeployed { app }),
        }
    }
}

fn split_rule(rule: &RolloutRule) -> SplitRule {
    let wanted = |m: &TrafficMatch| Match { name: m.name.clone(), value: m.value.clone() };
    SplitRule {
        percent: rule.percent,
        header: rule.header.as_ref().map(wanted),
        cookie: rule.cookie.as_ref().map(wanted),
    }
}
