//! How a Python app is started: which file holds it, by which server. Evidence and command come from the same
//! search, so that they cannot disagree.

use super::error::PlanError;
use super::presets::Finding;
use super::python::{dependencies, is_identifier, is_python, module_of};
use super::settings::PlanSettings;
use super::tree::View;
use super::{Builder, Evidence};

/// Files that may hold the app object, the likeliest first.
const APP_FILES: &[&str] = &[
    "main.py",
    "app.py",
    "wsgi.py",
    "asgi.py",
    "server.py",
    "api.py",
    "application.py",
    "app/main.py",
    "app/app.py",
    "app/__init__.py",
    "src/main.py",
    "src/app.py",
    "api/main.py",
    "backend/main.py",
];
/// Files that are run when nothing more special is found.
const PROGRAMS: &[&str] = &["main.py", "app.py", "server.py", "run.py", "bot.py", "__main__.py"];

/// What starts an app.
pub(super) struct Entry {
    /// The command; may use `$PORT`.
    pub(super) command: String,
    /// Packages that it needs and that the app's own list lacks.
    pub(super) extra_packages: Vec<&'static str>,
    pub(super) warnings: Vec<String>,
}

impl Entry {
    fn new(command: impl Into<String>) -> Self {
        Self { command: command.into(), extra_packages: Vec::new(), warnings: Vec::new() }
    }
}

/// The command for what the preset of this name found.
pub(super) fn entry(preset: &str, view: &View<'_>, settings: &PlanSettings) -> Result<Entry, PlanError> {
    if let Some(command) = &settings.start_command {
        return Ok(Entry::new(command));
    }
    let found = match preset {
        "procfile" => web_process(view).map(Entry::new),
        "django" => Some(django_entry(view)),
        "fastapi" => app_object(view, "FastAPI").map(|app| fastapi_entry(view, &app)),
        "flask" => app_object(view, "Flask")
            .map(|app| (app.module, app.name))
            .or_else(|| factory(view).map(|(_, module)| (module, "create_app()".to_owned())))
            .map(|(module, object)| flask_entry(view, &module, &object)),
        _ => None,
    };
    let found = found.or_else(|| view.first_of(PROGRAMS).map(|file| Entry::new(format!("python {file}"))));
    found.ok_or_else(|| PlanError::missing("start_command", "main.py", &[]))
}

pub(super) fn procfile(view: &View<'_>, settings: &PlanSettings) -> Result<Finding, PlanError> {
    if !is_python(view) || settings.start_command.is_some() {
        return Ok(Finding::Nothing);
    }
    Ok(web_process(view).map_or(Finding::Nothing, |command| {
        let shown: String = command.chars().take(120).collect();
        Finding::Evidence(vec![Evidence::new("Procfile", format!("has a web process: {shown}"))])
    }))
}

fn web_process(view: &View<'_>) -> Option<String> {
    let text = view.read("Procfile")?;
    let command = text.lines().find_map(|line| line.trim().strip_prefix("web:"))?.trim();
    let fine = !command.is_empty() && command.len() <= 4096 && !command.chars().any(char::is_control);
    fine.then(|| command.to_owned())
}

pub(super) fn django(view: &View<'_>, _: &PlanSettings) -> Result<Finding, PlanError> {
    if !view.has("manage.py") {
        return Ok(Finding::Nothing);
    }
    let named = view.read("manage.py").is_some_and(|text| text.contains("DJANGO_SETTINGS_MODULE"));
    if !named && !dependencies(view).iter().any(|name| name == "django") {
        return Ok(Finding::Nothing);
    }
    let mut facts = vec![Evidence::new("manage.py", "is a Django project's")];
    facts.extend(wsgi_file(view).map(|file| Evidence::new(file, "is its WSGI application")));
    Ok(Finding::Evidence(facts))
}

fn wsgi_file(view: &View<'_>) -> Option<String> {
    let is_one = |path: &&str| path.ends_with("/wsgi.py") && path.matches('/').count() <= 2;
    view.paths().filter(is_one).find(|path| module_of(path).is_some()).map(str::to_owned)
}

fn django_entry(view: &View<'_>) -> Entry {
    let names = dependencies(view);
    let module = wsgi_file(view).and_then(|file| module_of(&file));
    let mut entry = match module {
        Some(module) => {
            let mut entry = Entry::new(format!("gunicorn --bind 0.0.0.0:$PORT {module}:application"));
            if !names.iter().any(|name| name == "gunicorn") {
                entry.extra_packages.push("gunicorn");
                entry
                    .warnings
                    .push("gunicorn is not among the dependencies: its newest version is added.".to_owned());
            }
            entry
        }
        None => {
            let mut entry = Entry::new("python manage.py runserver --noreload 0.0.0.0:$PORT");
            entry.warnings.push("There is no wsgi.py: Django's development server is used.".to_owned());
            entry
        }
    };
    entry.warnings.push(
        "Migrations are not run by themselves: run python manage.py migrate in the start command.".to_owned(),
    );
    if names.iter().any(|name| name == "whitenoise") {
        entry.warnings.push(
            "For static files set build_command to python manage.py collectstatic --noinput.".to_owned(),
        );
    }
    entry
}

/// An app object: the file that makes it, and its name there.
struct AppObject {
    file: &'static str,
    module: String,
    name: String,
}

/// The first of the usual files in which `NAME = Class(` stands at the beginning of a line.
fn app_object(view: &View<'_>, class: &str) -> Option<AppObject> {
    APP_FILES.iter().filter(|file| view.has(file)).find_map(|file| {
        let text = view.read(file)?;
        let name = text.lines().find_map(|line| assigned(line, class))?;
        let module = module_of(file.strip_suffix("/__init__.py").map_or(*file, |_| "app.py"))?;
        Some(AppObject { file, module, name })
    })
}

fn assigned(line: &str, class: &str) -> Option<String> {
    let (left, right) = line.split_once('=')?;
    let name = left.split(':').next().unwrap_or(left);
    let (callee, _) = right.split_once('(')?;
    // `Flask(…)` or `flask.Flask(…)`.
    let called = callee.trim().rsplit('.').next() == Some(class);
    let name = name.trim_end();
    (called && is_identifier(name)).then(|| name.to_owned())
}

/// A file that makes the app inside a function, as `create_app`.
fn factory(view: &View<'_>) -> Option<(&'static str, String)> {
    APP_FILES.iter().filter(|file| view.has(file)).find_map(|file| {
        let text = view.read(file)?;
        let makes = text.lines().any(|line| line.starts_with("def create_app("));
        let module = module_of(file.strip_suffix("/__init__.py").map_or(*file, |_| "app.py"))?;
        (makes && text.contains("Flask(")).then_some((*file, module))
    })
}

pub(super) fn fastapi(view: &View<'_>, _: &PlanSettings) -> Result<Finding, PlanError> {
    Ok(app_object(view, "FastAPI").map_or(Finding::Nothing, |app| {
        Finding::Evidence(vec![Evidence::new(app.file, format!("{} is a FastAPI app", app.name))])
    }))
}

fn fastapi_entry(view: &View<'_>, app: &AppObject) -> Entry {
    let names = dependencies(view);
    let mut entry = Entry::new(format!("uvicorn --host 0.0.0.0 --port $PORT {}:{}", app.module, app.name));
    if !names.iter().any(|name| name == "uvicorn") {
        // `fastapi[standard]` brings it without naming it; installing it again changes nothing.
        entry.extra_packages.push("uvicorn");
        if !names.iter().any(|name| name == "fastapi") {
            entry.warnings.push("fastapi is not among the dependencies.".to_owned());
        }
    }
    entry
}

pub(super) fn flask(view: &View<'_>, _: &PlanSettings) -> Result<Finding, PlanError> {
    if let Some(app) = app_object(view, "Flask") {
        let why = format!("{} is a Flask app", app.name);
        return Ok(Finding::Evidence(vec![Evidence::new(app.file, why)]));
    }
    Ok(factory(view).map_or(Finding::Nothing, |(file, _)| {
        Finding::Evidence(vec![Evidence::new(file, "create_app makes a Flask app")])
    }))
}

fn flask_entry(view: &View<'_>, module: &str, object: &str) -> Entry {
    let app = format!("'{module}:{object}'");
    if dependencies(view).iter().any(|name| name == "gunicorn") {
        return Entry::new(format!("gunicorn --bind 0.0.0.0:$PORT {app}"));
    }
    let mut entry = Entry::new(format!("flask --app {app} run --host 0.0.0.0 --port $PORT"));
    entry.warnings.push(
        "Flask's development server is used: add gunicorn to the dependencies for real traffic.".to_owned(),
    );
    entry
}

pub(super) fn plain(view: &View<'_>, settings: &PlanSettings) -> Result<Finding, PlanError> {
    if !is_python(view) {
        return Ok(match settings.builder {
            Builder::Python => {
                Finding::Nearly("builder is python, but there are no Python files at the top".to_owned())
            }
            _ => Finding::Nothing,
        });
    }
    if settings.start_command.is_some() {
        return Ok(Finding::Evidence(vec![Evidence::new("settings.start_command", "says how to start")]));
    }
    if let Some(file) = view.first_of(PROGRAMS) {
        return Ok(Finding::Evidence(vec![Evidence::new(file, "is run by python")]));
    }
    let found = view.first_of(&["requirements.txt", "pyproject.toml", "Pipfile"]);
    let found = found.unwrap_or("Python files");
    Ok(Finding::Nearly(format!(
        "{found} is there, but no main.py or app.py to start: set start_command, or add a Procfile with web:"
    )))
}
