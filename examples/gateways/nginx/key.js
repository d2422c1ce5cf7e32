// The fingerprint of a call's API key: the first 16 hexadecimal digits of its SHA-256. A log may
// have it. If a call has several keys, nobody knows which one the provider takes.

import crypto from 'crypto';

const HEADERS = ['authorization', 'x-api-key', 'x-goog-api-key'];

function fingerprint(request) {
    const keys = request.rawHeadersIn
        .filter((header) => HEADERS.includes(header[0].toLowerCase()))
        .map((header) => header[1].replace(/^Bearer( +|$)/i, ''))
        .concat(request.args.key || [])
        .filter((key) => key);
    if (keys.length > 1) {
        return '(several)';
    }
    // njs hashes all bytes that are not UTF-8 as the same sign. Providers' keys are ASCII.
    if (keys.length && /[^\t -~]/.test(keys[0])) {
        return '(malformed)';
    }
    return keys.length ? sha256(keys[0]).slice(0, 16) : '';
}

function sha256(text) {
    return crypto.createHash('sha256').update(text).digest('hex');
}

export default {fingerprint};
