//! Publishes ten pictures with confirms.

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("AMQP_URL").unwrap_or("amqp://guest:guest@localhost:5672/".into());
    // For this client the vhost "/" is no path at all.
    let url = url.strip_suffix('/').unwrap_or(&url);
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let durable = QueueDeclareOptions::durable();
    channel
        .queue_declare("pictures".into(), durable, FieldTable::default())
        .await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    for number in 0..10 {
        let body = format!("picture {number}");
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let sent = channel
            .basic_publish(
                "".into(),
                "pictures".into(),
                options,
                body.as_bytes(),
                persistent,
            )
            .await?;
        if sent.await?.is_ack() {
            println!("confirmed: {body}");
        }
    }
    connection.close(200, "bye".into()).await?;
    Ok(())
}
