//! Commands of operators: users, vhosts, permissions, policies, parameters, limits, definitions.
//!
//! Keeps: a running server is asked over its socket; without one the store is opened here.
//! Never: decides anything about them; `admin` does.
//! In: `cli`.

use std::io::{BufRead, Read};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json};
use store::{Options, Store};

use super::messages::{Dead, Messages, Redrives, Replay};
use super::print;
use super::running::{Alarm, Connection, Trace};
use crate::admin::{self, Answer, Command, Only, Subject, client};
use crate::config::{self, Given};
use crate::node;

#[derive(Subcommand)]
pub(super) enum Operate {
    /// Users: who may log in.
    #[command(subcommand)]
    User(User),
    /// What users may do in a vhost.
    #[command(subcommand)]
    Permission(Permission),
    /// Which routing keys users may use on topic exchanges.
    #[command(subcommand)]
    TopicPermission(TopicPermission),
    /// Vhosts: worlds of their own.
    #[command(subcommand)]
    Vhost(Vhost),
    /// Arguments for queues and exchanges by name.
    #[command(subcommand)]
    Policy(Policy),
    /// Bounds that no policy or argument passes.
    #[command(subcommand)]
    OperatorPolicy(Policy),
    /// Runtime parameters of a vhost.
    #[command(subcommand)]
    Parameter(Parameter),
    /// Runtime parameters of the node.
    #[command(subcommand)]
    GlobalParameter(GlobalParameter),
    /// How many connections, channels and queues there may be.
    #[command(subcommand)]
    Limit(Limit),
    /// Everything of these, and all durable queues, exchanges and bindings, as one file.
    #[command(subcommand)]
    Definitions(Definitions),
    /// Dead messages: look, redrive, purge.
    #[command(subcommand)]
    Dead(Dead),
    /// Queues: pause, and what is in them.
    #[command(subcommand)]
    Queue(Messages),
    /// Moves of messages between queues, and replays.
    #[command(subcommand)]
    Redrive(Redrives),
    /// Settled messages that a queue keeps: look, publish again.
    #[command(subcommand)]
    Replay(Replay),
    /// Copies of what is published and delivered.
    #[command(subcommand)]
    Trace(Trace),
    /// When publishers must wait.
    #[command(subcommand)]
    Alarm(Alarm),
    /// Connections of clients.
    #[command(subcommand)]
    Connection(Connection),
}

#[derive(Subcommand)]
pub(super) enum User {
    /// Add a user; without PASSWORD it is read from the first line of the input.
    Add {
        name: String,
        password: Option<String>,
        /// As in administrator,monitoring.
        #[arg(long, value_delimiter = ',')]
        tags: Vec<String>,
    },
    /// Delete a user; its connections are closed.
    Delete { name: String },
    /// List users and their tags.
    List,
    /// Change a password; without PASSWORD it is read from the first line of the input.
    Passwd {
        name: String,
        password: Option<String>,
    },
    /// Replace a user's tags; none leaves it without.
    Tags { name: String, tags: Vec<String> },
}

#[derive(Args)]
pub(super) struct In {
    /// The vhost.
    #[arg(long, short = 'p', default_value = "/")]
    pub(super) vhost: String,
}

#[derive(Args)]
pub(super) struct Filter {
    /// Only in this vhost.
    #[arg(long, short = 'p')]
    vhost: Option<String>,
    /// Only of this user.
    #[arg(long)]
    user: Option<String>,
}

impl From<Filter> for Only {
    fn from(Filter { vhost, user }: Filter) -> Self {
        Self { vhost, user }
    }
}

#[derive(Subcommand)]
pub(super) enum Permission {
    /// Set what a user may configure, write and read: regular expressions, "" for nothing.
    Set {
        #[command(flatten)]
        at: In,
        user: String,
        configure: String,
        write: String,
        read: String,
    },
    /// Take a user's permissions away.
    Clear {
        #[command(flatten)]
        at: In,
        user: String,
    },
    /// List permissions.
    List(Filter),
}

#[derive(Subcommand)]
pub(super) enum TopicPermission {
    /// Set which keys a user may publish (WRITE) and bind (READ) with on a topic exchange.
    Set {
        #[command(flatten)]
        at: In,
        user: String,
        exchange: String,
        write: String,
        read: String,
    },
    /// Forget them, of one exchange or of all.
    Clear {
        #[command(flatten)]
        at: In,
        user: String,
        exchange: Option<String>,
    },
    /// List topic permissions.
    List(Filter),
}

#[derive(Subcommand)]
pub(super) enum Vhost {
    /// Add a vhost. Nobody may use it before a permission is set.
    Add {
        name: String,
        #[arg(long, default_value = "")]
        description: String,
        #[arg(long, value_delimiter = ',')]
        tags: Vec<String>,
        /// classic or quorum, for queues that are declared without x-queue-type.
        #[arg(long, default_value = "")]
        default_queue_type: String,
    },
    /// Delete a vhost with all its queues and messages; its connections are closed.
    Delete { name: String },
    /// List vhosts.
    List,
}

#[derive(Subcommand)]
pub(super) enum Policy {
    /// Set a policy: a regular expression for names, and a JSON object such as {"max-length":10}.
    Set {
        #[command(flatten)]
        at: In,
        name: String,
        pattern: String,
        definition: String,
        /// The highest that matches a name holds.
        #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
        priority: i32,
        /// all, exchanges, queues, classic_queues, quorum_queues or streams; an operator policy
        /// applies to queues.
        #[arg(long)]
        apply_to: Option<String>,
    },
    /// Remove a policy; what it gave is gone at once.
    Clear {
        #[command(flatten)]
        at: In,
        name: String,
    },
    /// List policies.
    List {
        /// Only in this vhost.
        #[arg(long, short = 'p')]
        vhost: Option<String>,
    },
}

#[derive(Subcommand)]
pub(super) enum Parameter {
    /// Set a parameter to a JSON value.
    Set {
        #[command(flatten)]
        at: In,
        component: String,
        name: String,
        value: String,
    },
    /// Remove a parameter.
    Clear {
        #[command(flatten)]
        at: In,
        component: String,
        name: String,
    },
    /// List parameters.
    List {
        /// Only in this vhost.
        #[arg(long, short = 'p')]
        vhost: Option<String>,
    },
}

#[derive(Subcommand)]
pub(super) enum GlobalParameter {
    /// Set a parameter to a JSON value.
    Set { name: String, value: String },
    /// Remove a parameter.
    Clear { name: String },
    /// List parameters.
    List,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct Limited {
    /// A limit of this vhost: max-connections or max-queues.
    #[arg(long, short = 'p')]
    vhost: Option<String>,
    /// A limit of this user: max-connections or max-channels.
    #[arg(long)]
    user: Option<String>,
}

impl From<Limited> for Subject {
    fn from(limited: Limited) -> Self {
        match (limited.vhost, limited.user) {
            (Some(vhost), _) => Self::Vhost(vhost),
            (None, user) => Self::User(user.unwrap_or_default()),
        }
    }
}

#[derive(Subcommand)]
pub(super) enum Limit {
    /// Set a limit; a negative value is none.
    Set {
        #[command(flatten)]
        of: Limited,
        name: String,
        #[arg(allow_hyphen_values = true)]
        value: i64,
    },
    /// Remove a limit, or all of a vhost or user.
    Clear {
        #[command(flatten)]
        of: Limited,
        name: Option<String>,
    },
    /// List limits.
    List,
}

#[derive(Subcommand)]
pub(super) enum Definitions {
    /// Take in RabbitMQ's definitions.json, all of it or nothing; - reads the input.
    Import {
        file: PathBuf,
        /// The vhost of objects that name none, as in a file of one vhost.
        #[arg(long, short = 'p')]
        vhost: Option<String>,
    },
    /// Write definitions.json to a file, or print it.
    Export {
        file: Option<PathBuf>,
        /// Only what is in this vhost, without users and permissions.
        #[arg(long, short = 'p')]
        vhost: Option<String>,
    },
}

/// Does the command and prints what there is to say.
///
/// # Errors
/// It was refused, or nothing could be asked.
pub(super) fn run(given: &Given, operate: Operate, json: bool) -> anyhow::Result<()> {
    let target = match &operate {
        Operate::Definitions(Definitions::Export { file, .. }) => file.clone(),
        _ => None,
    };
    let config = config::load(given)?;
    let mut asked = command(operate)?;
    let mut way = Way::Server;
    let mut listing = print::Listing::new(json);
    loop {
        let (answer, span) = (way.ask(&config, asked.clone())?, asked.span());
        let Answer::Page {
            columns,
            rows,
            next,
        } = answer
        else {
            return match (answer, target) {
                (Answer::Text(text), Some(file)) => {
                    std::fs::write(&file, text).with_context(|| file.display().to_string())
                }
                (answer, _) => print::answer(&answer, json),
            };
        };
        let is_read = listing.page(&columns, &rows)?;
        let (Some(next), Some(span), true) = (&next, span, is_read) else {
            return listing.end(None);
        };
        match span.after(rows.len() as u64, next.clone()) {
            Some(rest) => *span = rest,
            None => return listing.end(Some(next)),
        }
    }
}

/// How commands reach the data.
enum Way {
    /// Over a running server's socket.
    Server,
    /// No server runs: the store is ours for the moment.
    Store(tokio::runtime::Runtime, Store),
}

impl Way {
    fn ask(&mut self, config: &config::Config, command: Command) -> anyhow::Result<Answer> {
        let command = match self {
            Self::Store(..) => command,
            Self::Server => match client::ask(&config.data_dir, command)? {
                Ok(answer) => return Ok(answer),
                Err(command) => {
                    *self = open(config, &command)?;
                    command
                }
            },
        };
        let Self::Store(runtime, store) = self else {
            bail!("no server answers any more");
        };
        let answer = runtime.block_on(admin::run(store, command));
        answer.map_err(anyhow::Error::msg)
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        if let Self::Store(runtime, store) = self {
            runtime.block_on(store.stop());
        }
    }
}

fn open(config: &config::Config, command: &Command) -> anyhow::Result<Way> {
    let folder = config.data_dir.display();
    if let Some(what) = command.needs_server() {
        bail!("no server answers in {folder}, and without one there are no {what}");
    }
    if !matches!(config.store, config::StoreUrl::Postgres(_)) {
        let Some(database) = node::database(config) else {
            bail!("no server answers in {folder}, and a store in memory is nowhere else");
        };
        if !database.exists() {
            let database = database.display();
            bail!(
                "no server answers in {folder}, and there is no {database}; is --data-dir right?"
            );
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let store = runtime.block_on(async {
        let first = super::first()?;
        let options = Options {
            work_rules_all: config.work_rules_all,
            default_user: config
                .load_definitions
                .is_none()
                .then_some((first.user, first.password)),
            default_vhost: first.vhost,
            consumer_timeout_ms: config.consumer_timeout_ms,
            ..Options::default()
        };
        anyhow::Ok(Store::open(node::backend(config, None).await?, options).await?)
    })?;
    Ok(Way::Store(runtime, store))
}

fn command(operate: Operate) -> anyhow::Result<Command> {
    Ok(match operate {
        Operate::User(user) => user_command(user)?,
        Operate::Permission(permission) => permission_command(permission),
        Operate::TopicPermission(topic) => topic_command(topic),
        Operate::Vhost(vhost) => match vhost {
            Vhost::Add {
                name,
                description,
                tags,
                default_queue_type,
            } => Command::VhostAdd {
                name,
                description,
                tags,
                default_queue_type,
            },
            Vhost::Delete { name } => Command::VhostDelete { name },
            Vhost::List => Command::VhostList,
        },
        Operate::Policy(policy) => policy_command(policy, false)?,
        Operate::OperatorPolicy(policy) => policy_command(policy, true)?,
        Operate::Parameter(parameter) => parameter_command(parameter)?,
        Operate::GlobalParameter(parameter) => global_command(parameter)?,
        Operate::Limit(limit) => match limit {
            Limit::Set { of, name, value } => Command::LimitSet {
                subject: of.into(),
                name,
                value,
            },
            Limit::Clear { of, name } => Command::LimitClear {
                subject: of.into(),
                name,
            },
            Limit::List => Command::LimitList,
        },
        Operate::Definitions(Definitions::Import { file, vhost }) => Command::DefinitionsImport {
            text: text(&file)?,
            vhost,
        },
        Operate::Dead(dead) => dead.into(),
        Operate::Queue(messages) => messages.into(),
        Operate::Redrive(redrives) => redrives.into(),
        Operate::Replay(replay) => replay.into(),
        Operate::Trace(trace) => trace.into(),
        Operate::Alarm(alarm) => alarm.into(),
        Operate::Connection(connection) => connection.into(),
        Operate::Definitions(Definitions::Export { vhost, .. }) => {
            Command::DefinitionsExport { vhost }
        }
    })
}

fn user_command(user: User) -> anyhow::Result<Command> {
    Ok(match user {
        User::Add {
            name,
            password,
            tags,
        } => Command::UserAdd {
            name,
            password: secret(password)?,
            tags,
        },
        User::Delete { name } => Command::UserDelete { name },
        User::List => Command::UserList,
        User::Passwd { name, password } => Command::UserPassword {
            name,
            password: secret(password)?,
        },
        User::Tags { name, tags } => Command::UserTags { name, tags },
    })
}

fn permission_command(permission: Permission) -> Command {
    match permission {
        Permission::Set {
            at,
            user,
            configure,
            write,
            read,
        } => Command::PermissionSet {
            vhost: at.vhost,
            user,
            configure,
            write,
            read,
        },
        Permission::Clear { at, user } => Command::PermissionClear {
            vhost: at.vhost,
            user,
        },
        Permission::List(filter) => Command::PermissionList(filter.into()),
    }
}

fn topic_command(topic: TopicPermission) -> Command {
    match topic {
        TopicPermission::Set {
            at,
            user,
            exchange,
            write,
            read,
        } => Command::TopicPermissionSet {
            vhost: at.vhost,
            user,
            exchange,
            write,
            read,
        },
        TopicPermission::Clear { at, user, exchange } => Command::TopicPermissionClear {
            vhost: at.vhost,
            user,
            exchange,
        },
        TopicPermission::List(filter) => Command::TopicPermissionList(filter.into()),
    }
}

fn policy_command(policy: Policy, operator: bool) -> anyhow::Result<Command> {
    Ok(match policy {
        Policy::Set {
            at,
            name,
            pattern,
            definition,
            priority,
            apply_to,
        } => Command::PolicySet(admin::Policy {
            operator,
            vhost: at.vhost,
            name,
            pattern,
            apply_to: apply_to.unwrap_or_else(|| if operator { "queues" } else { "all" }.into()),
            priority,
            definition: object(&definition)?,
        }),
        Policy::Clear { at, name } => Command::PolicyClear {
            operator,
            vhost: at.vhost,
            name,
        },
        Policy::List { vhost } => Command::PolicyList { operator, vhost },
    })
}

fn parameter_command(parameter: Parameter) -> anyhow::Result<Command> {
    Ok(match parameter {
        Parameter::Set {
            at,
            component,
            name,
            value,
        } => Command::ParameterSet {
            vhost: at.vhost,
            component,
            name,
            value: json(&value)?,
        },
        Parameter::Clear {
            at,
            component,
            name,
        } => Command::ParameterClear {
            vhost: at.vhost,
            component,
            name,
        },
        Parameter::List { vhost } => Command::ParameterList {
            global: false,
            vhost,
        },
    })
}

fn global_command(parameter: GlobalParameter) -> anyhow::Result<Command> {
    let none = String::new;
    Ok(match parameter {
        GlobalParameter::Set { name, value } => Command::ParameterSet {
            vhost: none(),
            component: none(),
            name,
            value: json(&value)?,
        },
        GlobalParameter::Clear { name } => Command::ParameterClear {
            vhost: none(),
            component: none(),
            name,
        },
        GlobalParameter::List => Command::ParameterList {
            global: true,
            vhost: None,
        },
    })
}

fn json(text: &str) -> anyhow::Result<Json> {
    serde_json::from_str(text).with_context(|| format!("'{text}' is not JSON"))
}

fn object(text: &str) -> anyhow::Result<Map<String, Json>> {
    match json(text)? {
        Json::Object(map) => Ok(map),
        _ => bail!("a definition is a JSON object, as in {{\"max-length\": 1000}}"),
    }
}

/// A password from the command line, where others see it in the list of processes, or from the
/// input.
fn secret(given: Option<String>) -> anyhow::Result<String> {
    if let Some(given) = given {
        return Ok(given);
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn text(file: &std::path::Path) -> anyhow::Result<String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| file.display().to_string())
}
