//! `berth-evals`: the exam for agents that operate Berth.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result, bail};
use berth_evals::harness::{
    act::Sitting,
    adapters::{Agent, Kind},
    gate,
    qa::Evaluation,
    report::Report,
    retrieval,
    run::{self, Outcome},
    session::Session,
    task::Task,
    world::Worlds,
};
use clap::{Parser, Subcommand};
use tokio::sync::Semaphore;

/// Let an agent operate a fresh Berth, and see what comes of it.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The daemon's program. Default: the one beside this.
    #[arg(long, global = true)]
    berth: Option<PathBuf>,
    /// The folder with worlds and tasks.
    #[arg(long, global = true, default_value = env!("CARGO_MANIFEST_DIR"))]
    root: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Do tasks, each in a fresh world, and report.
    Run(Run),
    /// List the tasks.
    Tasks,
    /// Check that tasks can be done, and that what is wrong does not pass.
    Check {
        /// Only tasks whose names contain one of these.
        #[arg(long)]
        task: Vec<String>,
        /// Tasks at the same time.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
    },
    /// Do a task by hand, one command line a step.
    Act {
        /// The task.
        task: String,
        /// Where it is kept between the steps. Default: a folder of this user in the temporary directory.
        #[arg(long)]
        state: Option<PathBuf>,
        #[command(subcommand)]
        step: Step,
    },
    /// Ask tool_search for what people say, and count what it finds.
    Retrieval,
    /// Start a world, print how to reach it, and keep it until Ctrl-C.
    World {
        /// Its name.
        name: String,
    },
}

#[derive(Subcommand)]
enum Step {
    /// Print the task, what the server says, and its tools.
    List,
    /// Call a tool. Ends with 1 if it refuses.
    Call {
        /// The tool.
        name: String,
        /// Its input as JSON.
        #[arg(default_value = "{}")]
        arguments: String,
    },
    /// Give the answer and hear the verdict. Ends with 1 if it is not passed.
    Finish {
        /// The answer.
        answer: String,
        /// Also write everything as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// End it without a verdict.
    Drop,
}

#[derive(clap::Args)]
struct Run {
    /// Who does them.
    #[arg(long, value_enum)]
    adapter: Kind,
    /// Only tasks whose names contain one of these. Questions are named qa-WORLD-NUMBER.
    #[arg(long)]
    task: Vec<String>,
    /// Also the questions and answers.
    #[arg(long)]
    qa: bool,
    /// Attempts at each task.
    #[arg(long, default_value_t = 1)]
    k: u32,
    /// Runs at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// The model, for adapters of models. Default: EVAL_MODEL.
    #[arg(long)]
    model: Option<String>,
    /// Also write everything as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Seed of the random agent.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match go(Options::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn go(options: Options) -> Result<ExitCode> {
    let berth = match options.berth {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("berth"),
    };
    let worlds = || {
        anyhow::ensure!(
            berth.is_file(),
            "there is no program at {}: build it with cargo build -p berth, or name it with --berth",
            berth.display()
        );
        Ok(Worlds::new(berth.clone(), options.root.clone()))
    };
    match options.command {
        Command::Tasks => {
            for task in Task::all(&options.root)? {
                println!("{:28}  {:9}  {}", task.id, format!("{:?}", task.kind).to_lowercase(), task.title);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { task, jobs } => {
            let tasks = chosen(Task::all(&options.root)?, &task)?;
            let wrong = gate::check_all(Arc::new(worlds()?), tasks, jobs).await?;
            for line in &wrong {
                println!("✗ {line}");
            }
            println!("{}", if wrong.is_empty() { "all fit" } else { "not fit" });
            Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Act { task, state, step } => {
            let user = rustix::process::getuid().as_raw();
            let state = state.unwrap_or_else(|| std::env::temp_dir().join(format!("berth-evals-{user}")));
            act(&worlds()?, Task::named(&options.root, &task)?, &state, step).await
        }
        Command::Retrieval => {
            let place = worlds()?.place("empty").await?;
            let queries = retrieval::queries(&options.root)?;
            let mut session =
                Session::open(place.daemon.control, &place.daemon.token, "", queries.len()).await?;
            let score = retrieval::score(&mut session, &queries).await?;
            for line in &score.missed {
                println!("{line}");
            }
            println!("{} queries: hit@1 {:.3}, hit@3 {:.3}", score.asked, score.hit_at_1(), score.hit_at_3());
            Ok(ExitCode::SUCCESS)
        }
        Command::World { name } => {
            let place = worlds()?.place(&name).await?;
            println!(
                "control: http://{}\napps:    http://{}\ntoken:   {}",
                place.daemon.control, place.daemon.http, place.daemon.token
            );
            tokio::signal::ctrl_c().await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Run(wanted) => exam(&options.root, Arc::new(worlds()?), wanted).await,
    }
}

async fn act(worlds: &Worlds, task: Task, state: &std::path::Path, step: Step) -> Result<ExitCode> {
    let mut sitting = Sitting::open(worlds, task, state).await?;
    if sitting.fresh && !matches!(step, Step::List) {
        println!("The task:\n{}\n", sitting.brief());
    }
    match step {
        Step::List => println!("The task:\n{}\n\n{}", sitting.brief(), sitting.list().await?),
        Step::Call { name, arguments } => {
            let arguments = serde_json::from_str(&arguments).context("the arguments are no JSON")?;
            let (text, refused) = sitting.call(&name, arguments).await?;
            println!("{}{text}", if refused { "Refused: " } else { "" });
            return Ok(ExitCode::from(u8::from(refused)));
        }
        Step::Finish { answer, json } => {
            let outcome = sitting.finish(answer).await?;
            let passed = outcome.passed;
            let report = Report::of("manual", 1, vec![outcome]);
            print!("{}", report.table());
            write(json.as_deref(), &report)?;
            return Ok(ExitCode::from(u8::from(!passed)));
        }
        Step::Drop => sitting.drop_it()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn write(file: Option<&std::path::Path>, report: &Report) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    std::fs::write(file, serde_json::to_string_pretty(report)?)
        .with_context(|| format!("writing {}", file.display()))
}

/// What is run for one task: an agent, its name, and whether it must fail.
struct Entry {
    agent: Agent,
    name: String,
    attempt: u32,
}

fn entries(run: &Run, task: &Task) -> Result<Vec<Entry>> {
    let name = run.adapter.to_string();
    let entry = |agent, attempt| Entry { agent, name: name.clone(), attempt };
    if run.adapter == Kind::Mutants {
        let mutants = task.verify.mutant.iter().cloned().map(|m| {
            let name = format!("mutant: {}", m.name);
            Entry { agent: Agent::Oracle(Some(m)), name, attempt: 1 }
        });
        return Ok(mutants.collect());
    }
    (1..=run.k)
        .map(|attempt| {
            let agent = match run.adapter {
                Kind::Oracle | Kind::Mutants => Agent::Oracle(None),
                Kind::Null => Agent::Null,
                Kind::Random => Agent::Random(run.seed + u64::from(attempt)),
                Kind::ScriptedBad => Agent::ScriptedBad,
                model => {
                    let key = model.key().and_then(|k| std::env::var(k).ok()).context("no key")?;
                    Agent::model(model, key, run.model.clone())?
                }
            };
            Ok(entry(agent, attempt))
        })
        .collect()
}

/// The tasks whose names contain one of `wanted`; all if nothing is wanted.
fn chosen(mut tasks: Vec<Task>, wanted: &[String]) -> Result<Vec<Task>> {
    tasks.retain(|t| wanted.is_empty() || wanted.iter().any(|w| t.id.contains(w.as_str())));
    if tasks.is_empty() {
        bail!("no task is named so");
    }
    Ok(tasks)
}

async fn exam(root: &std::path::Path, worlds: Arc<Worlds>, run: Run) -> Result<ExitCode> {
    if let Some(key) = run.adapter.key()
        && std::env::var(key).map_or(true, |k| k.trim().is_empty())
    {
        println!("skipped: no key ({key} is not set)");
        return Ok(ExitCode::SUCCESS);
    }
    let mut tasks = Task::all(root)?;
    if run.qa {
        for (name, evaluation) in Evaluation::all(root)? {
            tasks.extend(evaluation.tasks(&name)?);
        }
    }
    let tasks = chosen(tasks, &run.task)?;
    let places = Arc::new(Semaphore::new(run.jobs.max(1)));
    let mut running = tokio::task::JoinSet::new();
    for task in tasks {
        for Entry { agent, name, attempt } in entries(&run, &task)? {
            let (worlds, task, places) = (Arc::clone(&worlds), task.clone(), Arc::clone(&places));
            running.spawn(async move {
                let _place = places.acquire_owned().await?;
                run::once(&worlds, &task, &agent, &name, attempt)
                    .await
                    .with_context(|| format!("{}, {name}", task.id))
            });
        }
    }
    let mut runs: Vec<Outcome> = Vec::new();
    while let Some(done) = running.join_next().await {
        runs.push(done??);
    }
    runs.sort_by(|a, b| (&a.task, a.attempt, &a.agent).cmp(&(&b.task, b.attempt, &b.agent)));
    let report = Report::of(&run.adapter.to_string(), run.k, runs);
    print!("{}", report.table());
    write(run.json.as_deref(), &report)?;
    let all = report.runs.iter().all(|r| r.passed);
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
