//! Operators change rules under live connections: what clients notice, on our server in process.
//!
//! Keeps: each change through the verb that the command line uses, each effect over the wire.
//! In: `conversation.rs`, for its runtime of virtual time.

use std::time::Duration;

use anyhow::Result;
use store::model::*;
use tests::conversation::client::{Client, Opening};
use tests::wire::content::Content;
use tests::wire::method::Method;
use tests::wire::value::Value;

use super::in_process::{InProcess, runtime};

pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A client of `limited` or `guest` with channel 1 open.
pub(crate) async fn client(server: &InProcess, user: &str) -> Result<Client> {
    let mut client = Client::new(server.stream());
    let opening = Opening {
        user: user.to_owned(),
        password: user.to_owned(),
        ..Opening::default()
    };
    client.open(&opening, PATIENCE).await?;
    client.open_channel(1, PATIENCE).await?;
    Ok(client)
}

pub(crate) async fn declare(client: &mut Client, queue: &str) -> Result<i64> {
    let declare = Method::named("queue.declare")?.with("queue", Value::str(queue))?;
    client.send(1, &declare, None).await?;
    let ok = client.await_method(1, "queue.declare-ok", PATIENCE).await?;
    Ok(ok.method.int("message-count"))
}

pub(crate) async fn publish(client: &mut Client, exchange: &str, key: &str) -> Result<()> {
    let publish = Method::named("basic.publish")?
        .with("exchange", Value::str(exchange))?
        .with("routing-key", Value::str(key))?;
    client.send(1, &publish, Some(&Content::default())).await
}

async fn refusal(client: &mut Client, channel: u16, close: &str) -> Result<String> {
    let close = client.await_method(channel, close, PATIENCE).await?;
    Ok(close.method.text("reply-text"))
}

pub(crate) fn policy(kind: PolicyKind, name: &str, definition: &[(&str, i64)]) -> PolicySpec {
    let mut table = amqp::field::Table::default();
    for (key, value) in definition {
        table.insert(key, amqp::field::Value::I64(*value));
    }
    PolicySpec {
        kind,
        vhost: "/".into(),
        name: name.into(),
        pattern: "^my-".into(),
        apply_to: ApplyTo::Queues,
        priority: 0,
        definition: table.encode(),
    }
}

#[test]
fn a_right_that_is_taken_away_is_missed_at_once() -> Result<()> {
    runtime()?.block_on(async {
        let server = InProcess::start().await?;
        let mut client = client(&server, "limited").await?;
        declare(&mut client, "my-q").await?;
        let store = server.store();
        publish(&mut client, "my-x", "k").await?;
        let missing = refusal(&mut client, 1, "channel.close").await?;
        assert_eq!(missing, "NOT_FOUND - no exchange 'my-x' in vhost '/'");
        client
            .send(1, &Method::named("channel.close-ok")?, None)
            .await?;
        client.open_channel(1, PATIENCE).await?;
        store.lock().delete_permission("/", "limited")?;
        publish(&mut client, "my-x", "k").await?;
        assert_eq!(
            refusal(&mut client, 1, "channel.close").await?,
            "ACCESS_REFUSED - write access to exchange 'my-x' in vhost '/' refused for user \
             'limited'"
        );
        Ok(())
    })
}

#[test]
fn connections_go_with_their_user_and_their_vhost() -> Result<()> {
    runtime()?.block_on(async {
        let server = InProcess::start().await?;
        let store = server.store();
        let mut limited = client(&server, "limited").await?;
        let mut guest = client(&server, "guest").await?;
        declare(&mut guest, "gone").await?;
        store.lock().delete_user("limited")?;
        assert_eq!(
            refusal(&mut limited, 0, "connection.close").await?,
            "CONNECTION_FORCED - user 'limited' is deleted"
        );
        assert_eq!(declare(&mut guest, "gone").await?, 0, "others go on");
        store.lock().delete_vhost("/")?;
        assert_eq!(
            refusal(&mut guest, 0, "connection.close").await?,
            "CONNECTION_FORCED - vhost '/' is deleted"
        );
        assert!(store.stats().queues.is_empty());
        Ok(())
    })
}

#[test]
fn a_limit_of_queues_is_for_new_ones() -> Result<()> {
    runtime()?.block_on(async {
        let server = InProcess::start().await?;
        let limit = LimitSpec {
            of: LimitOf::Vhost,
            subject: "/".into(),
            name: LimitName::MaxQueues,
            value: 1,
        };
        server.store().lock().put_limit(limit)?;
        let mut client = client(&server, "guest").await?;
        declare(&mut client, "first").await?;
        declare(&mut client, "first").await?;
        let second = Method::named("queue.declare")?.with("queue", Value::str("second"))?;
        client.send(1, &second, None).await?;
        assert_eq!(
            refusal(&mut client, 1, "channel.close").await?,
            "PRECONDITION_FAILED - cannot declare queue 'second': queue limit in vhost '/' (1) is \
             reached"
        );
        Ok(())
    })
}

#[test]
fn a_policy_holds_for_what_is_there_and_what_comes() -> Result<()> {
    runtime()?.block_on(async {
        let server = InProcess::start().await?;
        let store = server.store();
        let mut client = client(&server, "guest").await?;
        declare(&mut client, "my-old").await?;
        declare(&mut client, "other").await?;
        for queue in ["my-old", "other"] {
            for _ in 0..5 {
                publish(&mut client, "", queue).await?;
            }
        }
        assert_eq!(declare(&mut client, "my-old").await?, 5);
        store
            .lock()
            .put_policy(policy(PolicyKind::User, "p", &[("max-length", 3)]))?;
        assert_eq!(declare(&mut client, "my-old").await?, 3);
        assert_eq!(declare(&mut client, "other").await?, 5);
        declare(&mut client, "my-new").await?;
        let bound = policy(PolicyKind::Operator, "o", &[("max-length", 2)]);
        store.lock().put_policy(bound)?;
        for _ in 0..5 {
            publish(&mut client, "", "my-new").await?;
        }
        assert_eq!(declare(&mut client, "my-new").await?, 2, "the lower number");
        for (kind, name) in [(PolicyKind::Operator, "o"), (PolicyKind::User, "p")] {
            store.lock().delete_policy(kind, "/", name)?;
        }
        for _ in 0..5 {
            publish(&mut client, "", "my-new").await?;
        }
        assert_eq!(
            declare(&mut client, "my-new").await?,
            7,
            "nothing is left of them"
        );
        store
            .lock()
            .put_policy(policy(PolicyKind::User, "p", &[("message-ttl", 1000)]))?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(declare(&mut client, "my-new").await?, 0);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        store
            .lock()
            .put_policy(policy(PolicyKind::User, "p", &[("expires", 60_000)]))?;
        let queues = || store.stats().queues.len();
        tokio::time::sleep(Duration::from_secs(59)).await;
        assert_eq!(queues(), 3, "time counts from the policy on");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(queues(), 1, "idle queues expire by policy");
        Ok(())
    })
}

#[test]
fn a_policy_gives_an_exchange_an_alternate() -> Result<()> {
    runtime()?.block_on(async {
        let server = InProcess::start().await?;
        let store = server.store();
        let mut client = client(&server, "guest").await?;
        declare(&mut client, "spare").await?;
        let bind = Method::named("queue.bind")?
            .with("queue", Value::str("spare"))?
            .with("exchange", Value::str("amq.fanout"))?;
        client.send(1, &bind, None).await?;
        client.await_method(1, "queue.bind-ok", PATIENCE).await?;
        publish(&mut client, "amq.direct", "nowhere").await?;
        assert_eq!(declare(&mut client, "spare").await?, 0);
        let mut definition = amqp::field::Table::default();
        let alternate = amqp::field::Value::text("amq.fanout");
        definition.insert("alternate-exchange", alternate);
        let policy = PolicySpec {
            pattern: "^amq\\.direct$".into(),
            apply_to: ApplyTo::Exchanges,
            definition: definition.encode(),
            ..policy(PolicyKind::User, "p", &[])
        };
        store.lock().put_policy(policy)?;
        publish(&mut client, "amq.direct", "nowhere").await?;
        assert_eq!(declare(&mut client, "spare").await?, 1);
        store.lock().delete_policy(PolicyKind::User, "/", "p")?;
        publish(&mut client, "amq.direct", "nowhere").await?;
        assert_eq!(declare(&mut client, "spare").await?, 1);
        Ok(())
    })
}
