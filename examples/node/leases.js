// A worker hangs: its lease ends, the message goes to the next attempt, and what it says later is ignored.
import amqp from 'amqplib';

const connection = await amqp.connect(process.env.AMQP_URL ?? 'amqp://guest:guest@localhost:5672/');
const hung = await connection.createChannel();
const channel = await connection.createChannel();
await channel.assertQueue('renders', { durable: true, arguments: { 'x-lease-timeout': 500 } });
channel.sendToQueue('renders', Buffer.from('film'), { persistent: true });

let late = false;
while (!late) late = await hung.get('renders');
console.log('attempt 1: hangs');
await new Promise((done) => {
  channel.consume('renders', async (message) => {
    if (message === null) return; // The queue was deleted.
    const { 'x-attempt': attempt, 'x-last-error': error } = message.properties.headers;
    console.log(`attempt ${attempt}: ${error} before`);
    hung.ack(late); // Too late: it settles nothing, and is no error.
    await hung.checkQueue('renders');
    console.log('late ack: ignored');
    channel.ack(message);
    console.log('done:', message.content.toString());
    done();
  });
});
await channel.deleteQueue('renders');
await connection.close();
