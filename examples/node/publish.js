// Publishes ten tasks and waits until every one is confirmed.
import amqp from 'amqplib';

const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
const channel = await connection.createConfirmChannel();
await channel.assertQueue('tasks', { durable: true });
for (let number = 0; number < 10; number += 1) {
  channel.sendToQueue('tasks', Buffer.from(`task ${number}`), { persistent: true });
}
await channel.waitForConfirms();
console.log('confirmed: 10 tasks');
await connection.close();
