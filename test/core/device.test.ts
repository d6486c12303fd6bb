import { expect, test } from 'vitest';
import { ReferenceBackend } from '../../src/backends/reference/index.js';
import { backendNames, openBackend, registerBackend } from '../../src/core/device.js';

test('the first backend that opens serves, and one hears why another does not', async () => {
  await expect(openBackend()).rejects.toThrow(/no backend is available/);
  registerBackend('broken', () => Promise.reject(new Error('no driver')));
  registerBackend('plain', async () => new ReferenceBackend());
  expect(backendNames()).toEqual(['broken', 'plain']);
  const heard: string[] = [];
  expect((await openBackend(undefined, (message) => heard.push(message))).name).toBe('reference');
  expect(heard).toEqual(['backend broken is not available: no driver']);
});

test('a backend that is asked for by name is that one or an error', async () => {
  expect((await openBackend('plain')).name).toBe('reference');
  await expect(openBackend('broken')).rejects.toThrow('no driver');
  await expect(openBackend('plane')).rejects.toThrow(/there is no backend "plane"[\s\S]*broken, plain[\s\S]*use "plain"/);
});
