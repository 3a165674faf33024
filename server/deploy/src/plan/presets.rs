//! The table of what is recognised. A preset is a value: to teach Berth a framework, write its evidence and its
//! plan, and put it in its place here.
//!
//! The order is the rule of precedence: what a person wrote for this purpose (a Dockerfile) goes before what a
//! package manager wrote, programs go before files, and the special before the general.

use super::error::PlanError;
use super::settings::PlanSettings;
use super::tree::View;
use super::{BuildPlan, Builder, Evidence, dockerfile, node, python, python_entry, statics};

/// What a preset says about a source.
pub enum Finding {
    /// Not mine.
    Nothing,
    /// Nearly mine, but for what is said here, in words for a person.
    Nearly(String),
    /// Mine, for these reasons.
    Evidence(Vec<Evidence>),
}

/// One kind of source that is recognised.
pub struct Preset {
    /// Its name, as `django`.
    pub name: &'static str,
    /// The kind of build that it makes.
    pub builder: Builder,
    /// What it looks for, in words for a person.
    pub looks_for: &'static str,
    /// Looks at the source. Fails when a file that decides cannot be understood.
    pub evidence: fn(&View<'_>, &PlanSettings) -> Result<Finding, PlanError>,
    /// Makes the plan, when there was evidence.
    pub plan: fn(&Preset, &View<'_>, &PlanSettings, Vec<Evidence>) -> Result<BuildPlan, PlanError>,
}

/// All presets, the first that finds evidence wins.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "dockerfile",
        builder: Builder::Dockerfile,
        looks_for: "a Dockerfile",
        evidence: dockerfile::evidence,
        plan: dockerfile::plan,
    },
    Preset {
        name: "node",
        builder: Builder::Node,
        looks_for: "a package.json with a start script, a main file or server.js",
        evidence: node::evidence,
        plan: node::plan,
    },
    Preset {
        name: "procfile",
        builder: Builder::Python,
        looks_for: "Python dependencies with a Procfile that has a web process",
        evidence: python_entry::procfile,
        plan: python::plan,
    },
    Preset {
        name: "django",
        builder: Builder::Python,
        looks_for: "a Django project (manage.py)",
        evidence: python_entry::django,
        plan: python::plan,
    },
    Preset {
        name: "fastapi",
        builder: Builder::Python,
        looks_for: "a FastAPI app (main.py or app.py)",
        evidence: python_entry::fastapi,
        plan: python::plan,
    },
    Preset {
        name: "flask",
        builder: Builder::Python,
        looks_for: "a Flask app (app.py or wsgi.py)",
        evidence: python_entry::flask,
        plan: python::plan,
    },
    Preset {
        name: "python",
        builder: Builder::Python,
        looks_for: "a Python program (main.py, app.py, server.py)",
        evidence: python_entry::plain,
        plan: python::plan,
    },
    Preset {
        name: "static",
        builder: Builder::Static,
        looks_for: "an index.html, here or in public, dist, build, out or _site",
        evidence: statics::evidence,
        plan: statics::plan,
    },
];
