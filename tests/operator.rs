//! What operators do from the command line, and definitions that go from RabbitMQ to us and back.
//!
//! Keeps: RabbitMQ's own tools are the judge of our files.
//! Never: links the product; the binary and its sockets only.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value as Json, json};
use tests::conversation::client::{Client, Opening};
use tests::leveret::Leveret;
use tests::rabbitmq::RabbitMq;
use tests::wire::content::{Content, position};
use tests::wire::method::Method;
use tests::wire::value::Value;
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(10);

/// Names of nodes, which no import carries over.
const OF_THE_NODE: [&str; 2] = ["cluster_name", "internal_cluster_id"];

#[test]
fn definitions_go_from_rabbitmq_to_us_and_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    fs::write(file("whole.json"), whole().to_string())?;
    let before = RabbitMq::start()?;
    before.ctl(&["import_definitions", &file("whole.json")])?;
    before.ctl(&["export_definitions", &file("first.json")])?;
    drop(before);

    let server = Leveret::start("")?;
    let import = ["definitions", "import", &file("first.json")];
    let told = server.command(&import)?;
    assert_eq!(
        String::from_utf8(told.stderr)?,
        "left out: binding from 'inner' to exchange 'hidden' in vhost 'shop': no exchange \
         'hidden' in vhost 'shop'\n"
    );
    ensure!(told.status.success());
    said(&server, &["definitions", "export", &file("second.json")])?;
    // RabbitMQ hashed these passwords.
    login(server.amqp, "limited", "limited", "/")?;
    login(server.amqp, "hashed512", "limited", "/")?;
    drop(server);

    let after = RabbitMq::start()?;
    after.ctl(&["import_definitions", &file("second.json")])?;
    after.ctl(&["export_definitions", &file("third.json")])?;
    let (first, third) = (read(&file("first.json"))?, read(&file("third.json"))?);
    for kind in [
        "users",
        "vhosts",
        "permissions",
        "topic_permissions",
        "parameters",
        "global_parameters",
        "policies",
        "queues",
        "exchanges",
        "bindings",
    ] {
        let (first, third) = (sorted(&first[kind]), sorted(&third[kind]));
        ensure!(!first.is_empty(), "RabbitMQ exported no {kind}");
        for (ours, theirs) in third.iter().zip(&first) {
            ensure!(ours == theirs, "{kind}: {theirs} came back as {ours}");
        }
        ensure!(first.len() == third.len(), "{kind}: some were lost");
    }
    Ok(())
}

/// Something of each kind that RabbitMQ 3.10 keeps.
fn whole() -> Json {
    json!({
        "users": [
            // sha512 of salt 01020304 and "limited".
            {"name": "hashed512", "password_hash": SHA512_OF_LIMITED,
             "hashing_algorithm": "rabbit_password_hashing_sha512", "tags": ["monitoring"],
             "limits": {"max-connections": 5}},
        ],
        "vhosts": [{"name": "shop", "metadata": {"description": "sells", "tags": ["a", "b"]}}],
        "permissions": [
            {"user": "hashed512", "vhost": "/", "configure": "^(?!amq\\.).*", "write": ".*",
             "read": ".*"},
        ],
        "topic_permissions": [
            {"user": "hashed512", "vhost": "/", "exchange": "e", "write": "^{username}\\.",
             "read": ".*"},
        ],
        "global_parameters": [{"name": "motto", "value": {"deep": [1, "two", null, true]}}],
        "parameters": [
            {"vhost": "shop", "component": "vhost-limits", "name": "limits",
             "value": {"max-queues": 100}},
            {"vhost": "shop", "component": "operator_policy", "name": "bounds",
             "value": {"pattern": ".*", "apply-to": "queues", "priority": 3,
                       "definition": {"max-length": 1000}}},
        ],
        "policies": [
            {"vhost": "shop", "name": "dead", "pattern": "^orders", "apply-to": "queues",
             "priority": 1, "definition": {"dead-letter-exchange": "e", "message-ttl": 60000}},
            {"vhost": "shop", "name": "spare", "pattern": "^e$", "apply-to": "exchanges",
             "priority": 0, "definition": {"alternate-exchange": "amq.fanout"}},
        ],
        "queues": [
            {"vhost": "shop", "name": "orders", "durable": true, "auto_delete": false,
             "arguments": {"x-max-length": 5, "x-overflow": "reject-publish", "x-own": "é"}},
            {"vhost": "shop", "name": "safe", "durable": true, "auto_delete": false,
             "arguments": {"x-queue-type": "quorum"}},
            {"vhost": "/", "name": "plain", "durable": true, "auto_delete": true,
             "arguments": {}},
        ],
        "exchanges": [
            {"vhost": "shop", "name": "e", "type": "headers", "durable": true,
             "auto_delete": false, "internal": false, "arguments": {}},
            {"vhost": "shop", "name": "inner", "type": "topic", "durable": true,
             "auto_delete": true, "internal": false,
             "arguments": {"alternate-exchange": "amq.fanout"}},
            // Exported by RabbitMQ 3.10 as the ends of bindings only.
            {"vhost": "shop", "name": "hidden", "type": "topic", "durable": true,
             "auto_delete": false, "internal": true, "arguments": {}},
        ],
        "bindings": [
            {"vhost": "shop", "source": "e", "destination": "orders",
             "destination_type": "queue", "routing_key": "",
             "arguments": {"x-match": "all", "kind": "order", "size": 3}},
            {"vhost": "shop", "source": "inner", "destination": "safe",
             "destination_type": "queue", "routing_key": "a.#", "arguments": {}},
            {"vhost": "shop", "source": "amq.direct", "destination": "inner",
             "destination_type": "exchange", "routing_key": "k", "arguments": {}},
            {"vhost": "shop", "source": "inner", "destination": "hidden",
             "destination_type": "exchange", "routing_key": "k", "arguments": {}},
        ],
    })
}

#[test]
fn commands_work_with_and_without_a_server() -> Result<()> {
    let mut server = Leveret::start("")?;
    said(&server, &["vhost", "add", "shop", "--description", "sells"])?;
    said(
        &server,
        &["user", "add", "clerk", "secret", "--tags", "monitoring,x"],
    )?;
    let early = login(server.amqp, "clerk", "secret", "shop");
    ensure!(early.is_err(), "no permission is set");
    said(
        &server,
        &["permission", "set", "-p", "shop", "clerk", "^a", "", ".*"],
    )?;
    login(server.amqp, "clerk", "secret", "shop")?;
    let refused = refused(&server, &["user", "add", "clerk", "x"])?;
    assert_eq!(refused, "error: user 'clerk' exists\n");
    assert_eq!(
        said(&server, &["permission", "list", "-p", "shop"])?,
        "vhost  user   configure  write  read\nshop   clerk  ^a                .*\n"
    );
    server.stop()?;
    ensure!(!server.folder().join("data/admin.sock").exists());
    said(&server, &["user", "passwd", "clerk", "changed"])?;
    let policy = [
        "policy",
        "set",
        "p",
        "^q",
        r#"{"max-length": 5}"#,
        "--apply-to",
        "queues",
    ];
    said(&server, &policy)?;
    let listed: Json = serde_json::from_str(&said(&server, &["--json", "policy", "list"])?)?;
    let expected = json!([{"vhost": "/", "name": "p", "pattern": "^q", "apply-to": "queues",
        "priority": 0, "definition": {"max-length": 5}}]);
    assert_eq!(listed, expected);
    server.restart()?;
    login(server.amqp, "clerk", "changed", "shop")?;
    ensure!(login(server.amqp, "clerk", "secret", "shop").is_err());
    // What a crash leaves of the socket is no server.
    server.kill()?;
    said(&server, &["user", "delete", "clerk"])?;
    server.restart()?;
    ensure!(login(server.amqp, "clerk", "changed", "shop").is_err());
    said(&server, &["user", "list"])?;
    Ok(())
}

/// The words in which a client hears that its user is gone, and its vhost.
/// Tracing, limits of alarms and connections are the running server's.
#[test]
fn a_running_server_is_traced_limited_and_cleared_of_connections() -> Result<()> {
    let server = Leveret::start("")?;
    said(&server, &["trace", "on"])?;
    ensure!(said(&server, &["trace", "status"])?.contains("true"));
    said(&server, &["trace", "off"])?;
    ensure!(said(&server, &["trace", "status"])?.contains("false"));
    let refusal = refused(&server, &["trace", "on", "-p", "nowhere"])?;
    assert_eq!(refusal, "error: no vhost 'nowhere'\n");
    let blocked = |wanted: bool| -> Result<()> {
        let list = said(&server, &["alarm", "list", "--json"])?;
        let list: Json = serde_json::from_str(&list)?;
        ensure!(list[0]["alarm"] == wanted, "{list}");
        ensure!(list[0]["limit from"] == "command", "{list}");
        Ok(())
    };
    said(&server, &["alarm", "set", "memory", "0"])?;
    blocked(true)?;
    said(&server, &["alarm", "set", "memory", "0.9"])?;
    blocked(false)?;
    let refusal = refused(&server, &["alarm", "set", "disk", "much"])?;
    ensure!(refusal.contains("much is not a size"), "{refusal}");
    runtime()?.block_on(async {
        let mut one = connect(server.amqp, "guest", "guest", "/").await?;
        let mut two = connect(server.amqp, "guest", "guest", "/").await?;
        let list = said(&server, &["connection", "list", "--json"])?;
        let list: Json = serde_json::from_str(&list)?;
        let name = list[1]["name"].as_str().context("two connections")?;
        ensure!(name.starts_with("127.0.0.1:") && name.contains(" -> 127.0.0.1:"));
        said(
            &server,
            &["connection", "close", name, "--reason", "enough"],
        )?;
        said(&server, &["connection", "close-all", "--reason", "enough"])?;
        for client in [&mut one, &mut two] {
            let close = client.await_method(0, "connection.close", PATIENCE).await?;
            assert_eq!(close.method.int("reply-code"), 320);
            assert_eq!(
                close.method.text("reply-text"),
                "CONNECTION_FORCED - enough"
            );
        }
        let refusal = refused(&server, &["connection", "close", "nobody"])?;
        assert_eq!(refusal, "error: no connection 'nobody'\n");
        anyhow::Ok(())
    })
}

/// Queues of a vhost get its type when they are declared without one.
#[test]
fn a_vhost_has_a_type_of_queues() -> Result<()> {
    let server = Leveret::start("")?;
    let refusal = refused(
        &server,
        &["vhost", "add", "w", "--default-queue-type", "stream"],
    )?;
    ensure!(
        refusal.contains("'stream' is no type of queues here"),
        "{refusal}"
    );
    said(
        &server,
        &["vhost", "add", "w", "--default-queue-type", "quorum"],
    )?;
    said(
        &server,
        &["permission", "set", "-p", "w", "guest", ".*", ".*", ".*"],
    )?;
    runtime()?.block_on(async {
        let mut client = connect(server.amqp, "guest", "guest", "w").await?;
        client.open_channel(1, PATIENCE).await?;
        for (name, durable, kind, closes) in [
            ("a", true, None, false),
            ("a", true, None, false),
            ("a", true, Some("quorum"), false),
            ("t", false, None, false),
            ("t", false, Some("classic"), false),
            ("a", true, Some("classic"), true),
        ] {
            let kind = kind.map(|kind| ("x-queue-type".to_owned(), Value::str(kind)));
            let declare = Method::named("queue.declare")?
                .with("queue", Value::str(name))?
                .with("durable", Value::Bool(durable))?
                .with("arguments", Value::Table(kind.into_iter().collect()))?;
            client.send(1, &declare, None).await?;
            let answer = if closes {
                "channel.close"
            } else {
                "queue.declare-ok"
            };
            client.await_method(1, answer, PATIENCE).await?;
        }
        anyhow::Ok(())
    })?;
    let text = said(&server, &["definitions", "export"])?;
    let text: Json = serde_json::from_str(&text)?;
    let all = |kind: &str| text[kind].as_array().cloned().unwrap_or_default();
    let vhost = all("vhosts").into_iter().find(|row| row["name"] == "w");
    ensure!(vhost.is_some_and(|row| row["default_queue_type"] == "quorum"));
    let queue = all("queues").into_iter().find(|row| row["name"] == "a");
    ensure!(queue.is_some_and(|row| row["arguments"]["x-queue-type"] == "quorum"));
    Ok(())
}

/// Dead messages are listed, redriven and purged, with and without a server.
#[test]
fn dead_messages_go_where_the_operator_says() -> Result<()> {
    let server = Leveret::start("")?;
    runtime()?.block_on(async {
        let mut client = connect(server.amqp, "guest", "guest", "/").await?;
        kill_three(&mut client).await
    })?;
    let list = said(&server, &["dead", "list", "work", "--json"])?;
    let list: Json = serde_json::from_str(&list)?;
    let ids = |rows: &Json| -> Vec<String> {
        let rows = rows.as_array().into_iter().flatten();
        rows.map(|row| row["routing key"].to_string()).collect()
    };
    ensure!(ids(&list).len() == 3, "{list}");
    let signals = said(&server, &["queue", "signals", "work"])?;
    ensure!(signals.contains("3 in work.dlq"), "{signals}");
    let refusal = refused(&server, &["queue", "signals", "nowhere"])?;
    assert_eq!(refusal, "error: no queue 'nowhere' in vhost '/'\n");
    let meant = said(&server, &["dead", "redrive", "work", "--dry-run"])?;
    ensure!(meant.contains('3'), "{meant}");
    let moved = said(&server, &["dead", "redrive", "work"])?;
    ensure!(moved.contains("done"), "{moved}");
    let refusal = refused(&server, &["queue", "move", "work", "--to", "nowhere"])?;
    assert_eq!(refusal, "error: no queue 'nowhere' in vhost '/'\n");
    said(&server, &["queue", "pause", "work"])?;
    said(&server, &["queue", "resume", "work"])?;
    let removed = said(&server, &["queue", "purge", "work"])?;
    ensure!(removed.contains('3'), "{removed}");
    Ok(())
}

/// Acked messages survive `kill -9`, are replayed by place, time and header, and leave when a
/// policy or their time says so.
#[test]
fn settled_messages_are_kept_and_replayed() -> Result<()> {
    let mut server = Leveret::start("")?;
    runtime()?.block_on(async {
        let mut client = connect(server.amqp, "guest", "guest", "/").await?;
        client.open_channel(1, PATIENCE).await?;
        let hour = vec![("x-retain".to_owned(), Value::int(3_600_000))];
        declare(&mut client, "kept", hour).await?;
        declare(&mut client, "brief", Vec::new()).await?;
        declare(&mut client, "other", Vec::new()).await?;
        publish_and_ack(&mut client, "kept", 5).await
    })?;
    // Whoever asks waits for what was acked before.
    let kept = counted(&server, "kept", &[])?;
    ensure!(kept == 5, "{kept} of 5 are kept");
    server.kill()?;
    server.restart()?;
    ensure!(counted(&server, "kept", &[])? == 5);
    ensure!(counted(&server, "kept", &["--from-seq", "1", "--to-seq", "3"])? == 3);
    ensure!(counted(&server, "kept", &["--header", "number=4"])? == 1);
    ensure!(counted(&server, "kept", &["--since", "2100-01-01T00:00:00Z"])? == 0);
    ensure!(counted(&server, "kept", &["--until", "2100-01-01T00:00:00Z"])? == 5);
    let done = said(&server, &["replay", "start", "kept", "--to", "other"])?;
    ensure!(done.contains("done"), "{done}");
    let done = said(&server, &["replay", "start", "kept", "--from-seq", "3"])?;
    ensure!(done.contains("done"), "{done}");
    let rows = |queue: &str| -> Result<usize> {
        let list = said(&server, &["queue", "peek", queue, "--json"])?;
        let list: Json = serde_json::from_str(&list)?;
        Ok(list.as_array().map_or(0, Vec::len))
    };
    ensure!((rows("other")?, rows("kept")?) == (5, 2));
    let shown = said(&server, &["queue", "show", "kept", "5"])?;
    ensure!(shown.contains("\"x-replayed-seq\": 3"), "{shown}");
    let refusal = refused(&server, &["replay", "start", "other"])?;
    ensure!(refusal.contains("keeps no settled messages"), "{refusal}");

    // A live queue begins to keep, and what it keeps ends by time.
    let policy = ["policy", "set", "p", "^brief$", "{\"retain\": 1000}"];
    said(&server, &policy)?;
    runtime()?.block_on(async {
        let mut client = connect(server.amqp, "guest", "guest", "/").await?;
        client.open_channel(1, PATIENCE).await?;
        publish_and_ack(&mut client, "brief", 2).await
    })?;
    let begun = std::time::Instant::now();
    while counted(&server, "brief", &[])? > 0 {
        ensure!(begun.elapsed() < 3 * PATIENCE, "it is still kept");
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(counted(&server, "kept", &[])? == 5);
    Ok(())
}

/// How many settled messages a replay would mean.
fn counted(server: &Leveret, queue: &str, conditions: &[&str]) -> Result<u64> {
    let mut args = vec!["replay", "start", queue, "--dry-run", "--json"];
    args.extend(conditions);
    let rows: Json = serde_json::from_str(&said(server, &args)?)?;
    rows[0]["meant"].as_u64().context("no count")
}

async fn declare(client: &mut Client, queue: &str, rules: Vec<(String, Value)>) -> Result<()> {
    let declare = Method::named("queue.declare")?
        .with("queue", Value::str(queue))?
        .with("durable", Value::Bool(true))?
        .with("arguments", Value::Table(rules))?;
    client.send(1, &declare, None).await?;
    client.await_method(1, "queue.declare-ok", PATIENCE).await?;
    Ok(())
}

async fn publish_and_ack(client: &mut Client, queue: &str, count: i64) -> Result<()> {
    let publish = Method::named("basic.publish")?.with("routing-key", Value::str(queue))?;
    for number in 0..count {
        let mut content = Content::default();
        let headers = position("headers").context("a property")?;
        let number = ("number".to_owned(), Value::int(number));
        content.properties[headers] = Some(Value::Table(vec![number]));
        client.send(1, &publish, Some(&content)).await?;
    }
    for tag in 1..=count {
        let get = Method::named("basic.get")?.with("queue", Value::str(queue))?;
        client.send(1, &get, None).await?;
        client.await_method(1, "basic.get-ok", PATIENCE).await?;
        let ack = Method::named("basic.ack")?.with("delivery-tag", Value::int(tag))?;
        client.send(1, &ack, None).await?;
    }
    // Its answer comes after all of that was done.
    let check = Method::named("queue.declare")?
        .with("queue", Value::str(queue))?
        .with("passive", Value::Bool(true))?;
    client.send(1, &check, None).await?;
    client.await_method(1, "queue.declare-ok", PATIENCE).await?;
    Ok(())
}

/// A list of more than two pages is printed whole, or as far as asked, with and without a server.
#[test]
fn long_lists_are_printed_whole() -> Result<()> {
    let mut server = Leveret::start("")?;
    runtime()?.block_on(async {
        let mut client = connect(server.amqp, "guest", "guest", "/").await?;
        client.open_channel(1, PATIENCE).await?;
        declare(&mut client, "long", Vec::new()).await?;
        let publish = Method::named("basic.publish")?.with("routing-key", Value::str("long"))?;
        let mut content = Content::default();
        let mode = position("delivery-mode").context("a property")?;
        content.properties[mode] = Some(Value::int(2));
        for _ in 0..LONG {
            client.send(1, &publish, Some(&content)).await?;
        }
        declare(&mut client, "long", Vec::new()).await
    })?;
    let seqs = |server: &Leveret, more: &[&str]| -> Result<Vec<u64>> {
        let peek = ["queue", "peek", "long", "--json"];
        let list: Json = serde_json::from_str(&said(server, &[&peek, more].concat())?)?;
        let rows = list.as_array().context("a list")?;
        rows.iter()
            .map(|row| row["seq"].as_u64().context("a seq"))
            .collect()
    };
    for running in [true, false] {
        ensure!(seqs(&server, &[])?.into_iter().eq(0..LONG), "{running}");
        let some = seqs(&server, &["--limit", "1500", "--cursor", "500"])?;
        ensure!(some.into_iter().eq(500..2_000), "{running}");
        let told = server.command(&["queue", "peek", "long", "--limit", "2"])?;
        let told = String::from_utf8(told.stderr)?;
        assert_eq!(told, "there is more: --cursor 2\n");
        if running {
            server.stop()?;
        }
    }
    let refusal = refused(&server, &["queue", "peek", "long", "--cursor", "x"])?;
    assert_eq!(refusal, "error: cursor: 'x' is no place of this list\n");
    Ok(())
}

/// Messages: three pages of the admin socket.
const LONG: u64 = 2_345;

#[test]
fn both_servers_end_connections_in_the_same_words() -> Result<()> {
    let theirs = RabbitMq::start()?;
    let ours = Leveret::start("")?;
    for server in [&theirs as &dyn Operated, &ours] {
        server.operate("add_vhost", &["there"])?;
        server.operate("add_user", &["somebody", "secret"])?;
        server.operate("set_permissions", &["-p", "there", "somebody", "", "", ""])?;
        server.operate("set_permissions", &["-p", "there", "guest", "", "", ""])?;
    }
    for (verb, name, user, password) in [
        ("delete_user", "somebody", "somebody", "secret"),
        ("delete_vhost", "there", "guest", "guest"),
    ] {
        let heard = |server: &dyn Operated| -> Result<String> {
            runtime()?.block_on(async {
                let mut client = connect(server.amqp(), user, password, "there").await?;
                server.operate(verb, &[name])?;
                let close = client.await_method(0, "connection.close", PATIENCE).await?;
                let (code, text) = (
                    close.method.int("reply-code"),
                    close.method.text("reply-text"),
                );
                Ok(format!("{code} {text}"))
            })
        };
        // Their vhost stops before it goes, and a client hears of one or the other.
        let theirs = heard(&theirs)?.replace("is down", "is deleted");
        assert_eq!(heard(&ours)?, theirs, "{verb}");
    }
    Ok(())
}

#[test]
fn both_servers_say_that_they_stop() -> Result<()> {
    let theirs = RabbitMq::start()?;
    let mut ours = Leveret::start("")?;
    runtime()?.block_on(async {
        let mut to_theirs = connect(theirs.amqp(), "guest", "guest", "/").await?;
        let mut to_ours = connect(ours.amqp, "guest", "guest", "/").await?;
        theirs.ctl(&["stop_app"])?;
        let ended = ours.stop()?;
        ensure!(ended.success(), "{ended}");
        let forced = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'";
        for client in [&mut to_theirs, &mut to_ours] {
            let close = client.await_method(0, "connection.close", PATIENCE).await?;
            assert_eq!(close.method.int("reply-code"), 320);
            assert_eq!(close.method.text("reply-text"), forced);
        }
        Ok(())
    })
}

/// A server with the verbs of `rabbitmqctl`.
trait Operated {
    fn amqp(&self) -> SocketAddr;
    fn operate(&self, verb: &str, args: &[&str]) -> Result<()>;
}

impl Operated for RabbitMq {
    fn amqp(&self) -> SocketAddr {
        self.address
    }

    fn operate(&self, verb: &str, args: &[&str]) -> Result<()> {
        self.ctl(&[&[verb], args].concat()).map(drop)
    }
}

impl Operated for Leveret {
    fn amqp(&self) -> SocketAddr {
        self.amqp
    }

    fn operate(&self, verb: &str, args: &[&str]) -> Result<()> {
        let verb: &[&str] = match verb {
            "add_vhost" => &["vhost", "add"],
            "delete_vhost" => &["vhost", "delete"],
            "add_user" => &["user", "add"],
            "delete_user" => &["user", "delete"],
            "set_permissions" => &["permission", "set"],
            other => bail!("no verb {other} here"),
        };
        said(self, &[verb, args].concat()).map(drop)
    }
}

/// Three messages of a work queue without retries are rejected.
async fn kill_three(client: &mut Client) -> Result<()> {
    client.open_channel(1, PATIENCE).await?;
    let rules = vec![("x-retry-limit".to_owned(), Value::int(0))];
    let declare = Method::named("queue.declare")?
        .with("queue", Value::str("work"))?
        .with("durable", Value::Bool(true))?
        .with("arguments", Value::Table(rules))?;
    client.send(1, &declare, None).await?;
    client.await_method(1, "queue.declare-ok", PATIENCE).await?;
    let publish = Method::named("basic.publish")?.with("routing-key", Value::str("work"))?;
    for _ in 0..3 {
        let content = Content::default();
        client.send(1, &publish, Some(&content)).await?;
    }
    for tag in 1..4 {
        let get = Method::named("basic.get")?.with("queue", Value::str("work"))?;
        client.send(1, &get, None).await?;
        client.await_method(1, "basic.get-ok", PATIENCE).await?;
        let reject = Method::named("basic.reject")?.with("delivery-tag", Value::int(tag))?;
        client.send(1, &reject, None).await?;
    }
    // Its answer comes after all of that was done.
    let check = Method::named("queue.declare")?
        .with("queue", Value::str("work.dlq"))?
        .with("passive", Value::Bool(true))?;
    client.send(1, &check, None).await?;
    client.await_method(1, "queue.declare-ok", PATIENCE).await?;
    Ok(())
}

fn said(server: &Leveret, args: &[&str]) -> Result<String> {
    let output = server.command(args)?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "leveret {args:?}: {error}");
    Ok(String::from_utf8(output.stdout)?)
}

fn refused(server: &Leveret, args: &[&str]) -> Result<String> {
    let output = server.command(args)?;
    ensure!(output.status.code() == Some(1), "leveret {args:?} was done");
    Ok(String::from_utf8(output.stderr)?)
}

fn login(address: SocketAddr, user: &str, password: &str, vhost: &str) -> Result<()> {
    runtime()?.block_on(async { connect(address, user, password, vhost).await.map(drop) })
}

async fn connect(address: SocketAddr, user: &str, password: &str, vhost: &str) -> Result<Client> {
    let mut client = Client::new(TcpStream::connect(address).await?);
    let opening = Opening {
        user: user.to_owned(),
        password: password.to_owned(),
        vhost: vhost.to_owned(),
        ..Opening::default()
    };
    client.open(&opening, PATIENCE).await?;
    Ok(client)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().build()?)
}

fn read(path: &str) -> Result<Json> {
    let text = fs::read_to_string(Path::new(path)).with_context(|| path.to_owned())?;
    Ok(serde_json::from_str(&text)?)
}

fn sorted(rows: &Json) -> Vec<String> {
    let rows = rows.as_array().into_iter().flatten();
    let rows = rows.filter(|row| {
        let name = row["name"].as_str().unwrap_or("");
        !OF_THE_NODE.contains(&name) && row["destination"] != "hidden"
    });
    // Keys of an object come in order from serde_json.
    let mut rows: Vec<String> = rows.map(Json::to_string).collect();
    rows.sort();
    rows
}

/// base64(01020304 ++ SHA-512(01020304 ++ "limited")).
const SHA512_OF_LIMITED: &str = "AQIDBD0Bz9ksg8uUJbOeHn5gDdQxk+wJ9dCAZ6tFEH7g55FCp9eNRb43Dc3rbkAS\
     RjFZ0A2RtjZKVYuJyCfJivdJNX8=";
