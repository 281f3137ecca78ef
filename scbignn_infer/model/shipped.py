"""The shipped models, by the checksums of their records, which hold those of all files.

``training/tables/make_shipped.py`` writes this file, once it has checked them whole.
"""

SHIPPED = frozenset(
    {
        # human-body
        "66e27a388537b5f7af9cf97e64a5db97c0104ba32cf24d994cbc6cdeddefa74e",
        # human-lung-cancer-lines
        "c4053b388d11aeb1260e4ba1dea61fcf07896cc59daf9bddb0a9512be1a517a9",
        # human-pancreas
        "880df643971f8dfac64f5c05613e2b8f2a1cc46004c087675e1fcee80b8dcd48",
        # human-pbmc
        "ae05cbf73e1d20dd19ab859f8e0a97dab8b94f860c3bb3d8711fa93176c22e38",
        # mouse-body
        "e2b5989a31cc3f934e5628fc68ae20b63d2f5a7368a565744838af3e59d587ff",
        # mouse-pancreas
        "780316ac1e60b28210c1a890b0aa0f9141b170ad8ae8c6163aa88781d9b05dc1",
    }
)
