// A newsletter among alarms: it gains a priority for each 50 ms that it waits, so that later alarms do not pass it.
import { setTimeout as sleep } from 'node:timers/promises';
import amqp from 'amqplib';

const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
const channel = await connection.createConfirmChannel();
const ageing = { 'x-priority-ageing': 50 };
await channel.assertQueue('notices', { durable: true, maxPriority: 9, arguments: ageing });

async function publish(name, priority) {
  channel.sendToQueue('notices', Buffer.from(name), { persistent: true, priority });
  await channel.waitForConfirms();
}

await publish('newsletter', 0);
await publish('early alarm', 9);
await sleep(1000); // Both gain twenty levels, more than lie between them and any newcomer.
await publish('late alarm', 9);
await publish('late invoice', 5);

await channel.prefetch(1);
await channel.consume('notices', (message) => {
  if (!message) return;
  console.log('sent:', message.content.toString());
  channel.ack(message);
});
await sleep(1000);
await channel.deleteQueue('notices');
await connection.close();
