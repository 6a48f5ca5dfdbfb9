// A server of topics on npm's `ws`, as its own documents show a broadcast: text messages
// `sub TOPIC`, answered `ok`, and `pub TOPIC DATA`. For `make bench-peers`, which starts it.
'use strict';
const { WebSocketServer } = require('ws');

const topics = new Map();
const server = new WebSocketServer({
    host: '127.0.0.1',
    port: Number(process.argv[2]),
    perMessageDeflate: false,
    clientTracking: false,
});

server.on('listening', () => console.log(server.address().port));
server.on('connection', (socket) => {
    const joined = [];
    socket.on('message', (data) => {
        const topic = data.toString('latin1', 4, 11);
        if (data[0] === 0x73) {
            if (!topics.has(topic)) topics.set(topic, new Set());
            topics.get(topic).add(socket);
            joined.push(topic);
            socket.send('ok');
            return;
        }
        const members = topics.get(topic);
        if (!members) return;
        const payload = data.subarray(12);
        for (const member of members) member.send(payload, { binary: false });
    });
    socket.on('error', () => {});
    socket.on('close', () => joined.forEach((topic) => {
        const members = topics.get(topic);
        members.delete(socket);
        if (members.size === 0) topics.delete(topic);
    }));
});
