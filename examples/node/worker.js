// Works through the queue "tasks", five at a time. A task that fails goes back once.
import amqp from 'amqplib';

const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
const channel = await connection.createChannel();
await channel.assertQueue('tasks', { durable: true });
await channel.prefetch(5);

console.log('waiting for tasks');
await channel.consume('tasks', async (message) => {
  if (message === null) return console.log('the queue was deleted');
  try {
    await work(message.content.toString());
    channel.ack(message);
  } catch (error) {
    console.error('failed:', error.message);
    channel.nack(message, false, !message.fields.redelivered);
  }
});

process.once('SIGTERM', () => connection.close());
process.once('SIGINT', () => connection.close());

async function work(task) {
  console.log('done:', task);
}
