// Questions to the kernel, and its answers. Several views may show one model: each hears only what it asked.
function createLink(model, pushed) {
  const mine = Math.random().toString(36).slice(2);
  const waiting = new Map();
  let count = 0;

  function received(message, buffers) {
    if (message.push) return pushed(message, buffers);
    const asked = waiting.get(message.id);
    if (!asked) return;
    waiting.delete(message.id);
    if (message.error) asked.reject(new Error(message.error));
    else asked.resolve({ ...message, buffers });
  }

  model.on("msg:custom", received);
  return {
    ask(kind, fields = {}) {
      const id = `${mine}-${count++}`;
      return new Promise((resolve, reject) => {
        waiting.set(id, { resolve, reject });
        model.send({ id, kind, ...fields });
      });
    },
    close: () => model.off("msg:custom", received),
  };
}

// One call at a time; of those that come meanwhile only the newest is made: a slider never builds a queue.
function newestOnly(act) {
  let busy = null, waiting = null;
  return function asked(...given) {
    waiting = given;
    busy ??= (async () => {
      try {
        while (waiting) {
          const now = waiting;
          waiting = null;
          try {
            await act(...now);
          } catch (error) {
            if (!waiting) throw error; // of what has been replaced nobody needs to hear
          }
        }
      } finally {
        busy = null;
      }
    })();
    return busy;
  };
}

const bytesOf = (buffer) => new Uint8Array(buffer.buffer ?? buffer, buffer.byteOffset ?? 0, buffer.byteLength);
const floatsOf = (buffer) => new Float32Array(bytesOf(buffer).slice().buffer);
const intsOf = (buffer) => new Int32Array(bytesOf(buffer).slice().buffer);
