// Three payments, two of them published twice: each is worked on once.
import { setTimeout as sleep } from 'node:timers/promises';
import amqp from 'amqplib';

const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
const channel = await connection.createConfirmChannel();
const day = 24 * 60 * 60 * 1000; // milliseconds
await channel.assertQueue('charges', { durable: true, arguments: { 'x-deduplication-window': day } });
const published = ['1001', '1002', '1001', '1003', '1002'];
for (const payment of published) {
  channel.sendToQueue('charges', Buffer.from(payment), { persistent: true, messageId: payment });
}
await channel.waitForConfirms();
console.log('confirmed:', published.length);

await channel.consume('charges', (message) => {
  if (!message) return;
  console.log('paid:', message.content.toString());
  channel.ack(message);
});
await sleep(1000);
await channel.deleteQueue('charges');
await connection.close();
