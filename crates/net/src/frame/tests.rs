use tokio::io::AsyncWriteExt;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn encoded(kind: u8, payload: &[u8]) -> BytesMut {
    let mut buffer = BytesMut::new();
    append(&mut buffer, kind, &[payload]).unwrap();
    buffer
}

#[tokio::test]
async fn frames_survive_any_cut_and_cancellation() {
    let (mut near, mut far) = tokio::io::duplex(64);
    let mut bytes = encoded(1, b"one");
    bytes.extend_from_slice(&encoded(2, b""));
    bytes.extend_from_slice(&encoded(3, &[7; 1000]));
    let sender = tokio::spawn(async move {
        for byte in bytes {
            near.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let mut reader = FrameReader::new(MAXIMUM_PAYLOAD);
    let mut frames = Vec::new();
    let mut cancelled = 0;
    loop {
        // A read that is given up whenever it has to wait, and begun again.
        tokio::select! {
            biased;
            frame = reader.read(&mut far, PATIENCE) => match frame.unwrap() {
                Some(frame) => frames.push(frame),
                None => break,
            },
            () = tokio::task::yield_now() => cancelled += 1,
        }
    }
    sender.await.unwrap();
    let expected = [(1, b"one".to_vec()), (2, Vec::new()), (3, vec![7; 1000])];
    assert_eq!(
        frames.into_iter().map(|frame| (frame.kind, frame.payload.to_vec())).collect::<Vec<_>>(),
        expected
    );
    assert!(cancelled > 100, "the reads were cancelled only {cancelled} times");
}

#[tokio::test]
async fn a_long_frame_is_refused_by_its_header_alone() {
    let (mut near, mut far) = tokio::io::duplex(64);
    near.write_all(&[0x01, 0x00, 0x00, 0x01, 9]).await.unwrap();
    let mut reader = FrameReader::new(MAXIMUM_PAYLOAD);
    let error = reader.read(&mut far, PATIENCE).await.unwrap_err();
    assert!(matches!(error, FrameError::TooLong { length: 16_777_217, maximum: MAXIMUM_PAYLOAD }), "{error}");
    assert!(reader.buffer.capacity() < 1024 * 1024);
}

#[tokio::test]
async fn an_announced_frame_reserves_nothing_before_it_comes() {
    let (mut near, mut far) = tokio::io::duplex(64);
    near.write_all(&[0x01, 0x00, 0x00, 0x00, 9]).await.unwrap();
    let mut reader = FrameReader::new(MAXIMUM_PAYLOAD);
    let error = reader.read(&mut far, Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(error, FrameError::Silent(_)), "{error}");
    assert!(reader.buffer.capacity() < 1024 * 1024);
}

#[tokio::test]
async fn the_longest_frame_passes() {
    let (mut near, mut far) = tokio::io::duplex(1 << 20);
    let sender = tokio::spawn(async move {
        near.write_all(&encoded(1, &vec![3; MAXIMUM_PAYLOAD])).await.unwrap();
    });
    let mut reader = FrameReader::new(MAXIMUM_PAYLOAD);
    let frame = reader.read(&mut far, PATIENCE).await.unwrap().unwrap();
    assert_eq!(frame.payload.len(), MAXIMUM_PAYLOAD);
    sender.await.unwrap();
    let mut buffer = BytesMut::new();
    assert!(append(&mut buffer, 1, &[&vec![0; MAXIMUM_PAYLOAD], b"x"]).is_err());
    assert!(buffer.is_empty());
}

#[tokio::test]
async fn an_end_within_a_frame_is_told_from_an_end_between_frames() {
    let (mut near, mut far) = tokio::io::duplex(64);
    near.write_all(&encoded(1, b"whole")).await.unwrap();
    near.write_all(&encoded(1, b"torn")[..7]).await.unwrap();
    drop(near);
    let mut reader = FrameReader::new(MAXIMUM_PAYLOAD);
    assert_eq!(reader.read(&mut far, PATIENCE).await.unwrap().unwrap().payload, "whole");
    assert!(matches!(reader.read(&mut far, PATIENCE).await.unwrap_err(), FrameError::Torn));
    let (near, mut far) = tokio::io::duplex(64);
    drop(near);
    assert!(FrameReader::new(10).read(&mut far, PATIENCE).await.unwrap().is_none());
}
